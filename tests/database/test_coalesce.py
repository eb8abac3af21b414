"""The coalescer by itself: each of its rules, with sets that are answered when a test says so."""

import asyncio
import gc
import re
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from service.coalesce import Coalescer, QueueFull


class DataFault(Exception):
    """What some call holds is wrong."""


class Lost(Exception):
    """The answer to a set was lost."""


class Broken(Exception):
    """Anything else."""


class Database:
    """Takes sets, and answers each when it is told to."""

    def __init__(self) -> None:
        self.sets: list[list[Any]] = []
        self.replies: list[asyncio.Future[None]] = []  # to the sets under way, oldest first

    async def run(self, calls: Sequence[Any]) -> list[str]:
        reply = asyncio.get_running_loop().create_future()
        self.sets.append(list(calls))
        self.replies.append(reply)
        try:
            await reply
        finally:
            self.replies.remove(reply)
        return [f"answer to {call}" for call in calls]

    async def answer(self, fault: Exception | None = None) -> None:
        """Answer the oldest set under way, or fail it, and let what follows from it happen."""
        if fault:
            self.replies[0].set_exception(fault)
        else:
            self.replies[0].set_result(None)
        await settle()

    async def answer_all(self) -> None:
        while self.replies:
            await self.answer()


@pytest.fixture
def database() -> Database:
    return Database()


@pytest.fixture(autouse=True)
async def nobody_complains() -> AsyncIterator[None]:
    """asyncio has nothing to complain of after a test, such as an error that nobody heard of."""
    loop = asyncio.get_running_loop()
    handler = loop.get_exception_handler()
    complaints: list[Any] = []
    loop.set_exception_handler(lambda loop, context: complaints.append(context))
    before = len(asyncio.all_tasks())
    gc.freeze()  # for a quick collection afterwards, of what the test left only
    yield
    await settle()
    gc.collect()
    gc.unfreeze()
    loop.set_exception_handler(handler)
    assert complaints == []
    assert len(asyncio.all_tasks()) == before  # no sender stays


async def settle(turns: int = 20) -> None:
    """Let the event loop turn; whatever waits for a timer or for the outside stays as it is."""
    for _ in range(turns):
        await asyncio.sleep(0)


def coalescer(run: Database | Callable[..., Any], **options: Any) -> Coalescer[Any, Any]:
    defaults: dict[str, Any] = {
        "max_sets": 1,
        "max_waiting": 1000,
        "is_data_fault": lambda fault: isinstance(fault, DataFault),
        "is_lost": lambda fault: isinstance(fault, Lost),
    }
    return Coalescer(run.run if isinstance(run, Database) else run, **defaults | options)


async def start(call: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    """Make a call, and let the event loop turn until it is sent, or waits."""
    task = asyncio.create_task(call)
    await settle()
    return task


async def start_all(coalesced: Coalescer[Any, Any], calls: Sequence[Any]) -> list[Any]:
    """Make calls in one turn of the event loop."""
    tasks = [asyncio.create_task(coalesced(call)) for call in calls]
    await settle()
    return tasks


def outcome(task: asyncio.Task[Any]) -> Any:
    """What a call has come to: its answer, the kind of its error, or None while it waits."""
    if not task.done():
        return None
    if task.cancelled():
        return asyncio.CancelledError
    return type(fault) if (fault := task.exception()) else task.result()


def answers(*calls: Any) -> list[str]:
    return [f"answer to {call}" for call in calls]


async def finish(tasks: Sequence[asyncio.Task[Any]]) -> list[Any]:
    """What the calls have come to, when nothing more happens; none is left waiting."""
    await settle()
    return [outcome(task) for task in tasks]


# When a call is sent, and with which others


async def test_a_call_on_an_idle_coalescer_is_sent_in_the_next_turn_of_the_loop(
    database: Database,
) -> None:
    task = asyncio.create_task(coalescer(database, max_sets=2)(1))
    await asyncio.sleep(0)  # the caller's turn
    assert database.sets == []
    await asyncio.sleep(0)  # its sender's
    assert database.sets == [[1]]

    await database.answer()
    assert outcome(task) == "answer to 1"


async def test_calls_of_one_turn_of_the_loop_leave_together(database: Database) -> None:
    tasks = await start_all(coalescer(database, max_sets=5), [1, 2, 3])
    assert database.sets == [[1, 2, 3]]

    await database.answer()
    assert await finish(tasks) == answers(1, 2, 3)


async def test_calls_that_arrive_while_a_set_is_under_way_leave_together_when_it_ends(
    database: Database,
) -> None:
    coalesced = coalescer(database)
    tasks = [await start(coalesced(call)) for call in (1, 2, 3, 4)]
    assert database.sets == [[1]]  # nobody joins what is sent already

    await database.answer()
    assert database.sets == [[1], [2, 3, 4]]
    assert await finish(tasks) == ["answer to 1", None, None, None]
    await database.answer()
    assert await finish(tasks) == answers(1, 2, 3, 4)


async def test_equal_calls_are_calls_of_their_own(database: Database) -> None:
    tasks = await start_all(coalescer(database), [7, 7, 7])
    assert database.sets == [[7, 7, 7]]

    await database.answer()
    assert await finish(tasks) == answers(7, 7, 7)


async def test_a_call_may_follow_at_once_on_the_answer_to_the_one_before() -> None:
    async def run(calls: Sequence[int]) -> Sequence[int]:
        return calls

    coalesced = coalescer(run)
    async with asyncio.timeout(5):
        assert [await coalesced(call) for call in range(3)] == [0, 1, 2]


@pytest.mark.parametrize("turns", range(6))
async def test_a_call_that_arrives_as_every_sender_ends_is_sent(
    database: Database, turns: int
) -> None:
    coalesced = coalescer(database, max_sets=2)
    first = [await start(coalesced(call)) for call in (1, 2)]
    for reply in database.replies:
        reply.set_result(None)
    await settle(turns)
    last = await start(coalesced(3))

    assert database.sets == [[1], [2], [3]]
    await database.answer()
    assert await finish([*first, last]) == answers(1, 2, 3)


async def test_sets_are_bounded_and_keep_the_order_of_arrival(database: Database) -> None:
    tasks = await start_all(coalescer(database, max_set=3), range(8))
    await database.answer_all()

    assert database.sets == [[0, 1, 2], [3, 4, 5], [6, 7]]
    assert await finish(tasks) == answers(*range(8))


async def test_sets_under_way_are_bounded(database: Database) -> None:
    tasks = await start_all(coalescer(database, max_set=1, max_sets=3), range(9))
    for ended in range(7):
        assert len(database.replies) == 3
        assert len(database.sets) == ended + 3
        await database.answer()
    await database.answer_all()

    assert len(database.sets) == 9
    assert await finish(tasks) == answers(*range(9))


async def test_a_set_that_ends_late_holds_up_no_other(database: Database) -> None:
    coalesced = coalescer(database, max_sets=2)
    slow, fast = [await start(coalesced(call)) for call in ("slow", "fast")]
    for _ in range(5):
        database.replies[1].set_result(None)
        assert await finish([slow, fast]) == [None, "answer to fast"]
        fast = await start(coalesced("fast"))
    await database.answer_all()

    assert await finish([slow, fast]) == answers("slow", "fast")


async def test_a_set_holds_calls_of_one_shape_only(database: Database) -> None:
    tasks = await start_all(coalescer(database, shape=lambda call: call[0]), ["a1", "b1", "a2"])
    await database.answer_all()

    assert database.sets == [["a1", "a2"], ["b1"]]
    assert await finish(tasks) == answers("a1", "b1", "a2")


async def test_no_shape_waits_for_more_than_one_set_of_each_other(database: Database) -> None:
    coalesced = coalescer(database, max_set=2, shape=lambda call: call[0])
    tasks = await start_all(coalesced, ["a1", "a2", "a3", "a4", "a5", "b1", "c1"])
    await database.answer()  # a1, a2; the busy shape goes on to grow
    tasks += await start_all(coalesced, ["a6", "a7", "b2"])
    await database.answer_all()

    assert database.sets == [
        ["a1", "a2"],
        ["b1"],
        ["c1"],
        ["a3", "a4"],
        ["b2"],
        ["a5", "a6"],
        ["a7"],
    ]
    assert None not in await finish(tasks)


async def test_what_a_set_does_belongs_to_no_single_caller() -> None:
    request_id = ContextVar("request_id", default="none")
    request_id.set("the first caller's")

    async def run(calls: Sequence[int]) -> Sequence[str]:
        return [request_id.get() for _ in calls]

    assert await coalescer(run)(1) == "none"


# What becomes of a set that fails


async def test_the_one_bad_call_of_a_set_fails_alone(database: Database) -> None:
    tasks = await start_all(coalescer(database), ["good", "bad", "fine"])
    await database.answer(DataFault())
    assert database.sets[1:] == [["good"]]
    await database.answer()
    assert database.sets[2:] == [["bad"]]
    await database.answer(DataFault())
    await database.answer()

    assert database.sets == [["good", "bad", "fine"], ["good"], ["bad"], ["fine"]]
    assert await finish(tasks) == ["answer to good", DataFault, "answer to fine"]


async def test_a_bad_call_by_itself_is_sent_once(database: Database) -> None:
    tasks = await start_all(coalescer(database), ["bad"])
    await database.answer(DataFault())

    assert database.sets == [["bad"]]
    assert await finish(tasks) == [DataFault]


@pytest.mark.parametrize("repeatable", [True, False])
async def test_any_other_fault_reaches_all_of_the_set_and_nothing_is_sent_again(
    database: Database, repeatable: bool
) -> None:
    coalesced = coalescer(database, repeatable=repeatable)
    tasks = await start_all(coalesced, [1, 2])
    after = await start(coalesced(3))
    await database.answer(Broken())
    await database.answer()

    assert database.sets == [[1, 2], [3]]
    assert await finish([*tasks, after]) == [Broken, Broken, "answer to 3"]


async def test_a_set_of_reads_whose_answer_was_lost_is_sent_once_more(database: Database) -> None:
    tasks = await start_all(coalescer(database, repeatable=True), [1, 2])
    await database.answer(Lost())
    await database.answer()

    assert database.sets == [[1, 2], [1, 2]]
    assert await finish(tasks) == answers(1, 2)


async def test_a_set_of_reads_that_is_lost_twice_has_failed(database: Database) -> None:
    tasks = await start_all(coalescer(database, repeatable=True), [1, 2])
    await database.answer(Lost())
    await database.answer(Lost())

    assert database.sets == [[1, 2], [1, 2]]
    assert await finish(tasks) == [Lost, Lost]


async def test_a_set_of_writes_whose_answer_was_lost_is_never_sent_again(
    database: Database,
) -> None:
    tasks = await start_all(coalescer(database), [1, 2])
    await database.answer(Lost())

    assert database.sets == [[1, 2]]
    assert await finish(tasks) == [Lost, Lost]


async def test_a_write_that_is_lost_while_the_bad_one_is_sought_is_not_sent_again(
    database: Database,
) -> None:
    tasks = await start_all(coalescer(database), [1, 2, 3])
    await database.answer(DataFault())
    await database.answer()
    await database.answer(Lost())
    await database.answer()

    assert database.sets == [[1, 2, 3], [1], [2], [3]]
    assert await finish(tasks) == ["answer to 1", Lost, "answer to 3"]


@pytest.mark.parametrize("given", [[], ["one"], ["one", "two", "three"]], ids=len)
async def test_a_run_with_too_few_or_too_many_answers_fails_its_set_and_no_other(
    given: list[str],
) -> None:
    async def run(calls: Sequence[str]) -> Sequence[str]:
        return given if "first" in calls else calls

    coalesced = coalescer(run, max_set=2)
    tasks = await start_all(coalesced, ["first", "second", "third"])

    first, second, third = await finish(tasks)
    assert third == "third"
    for broken in (first, second):  # nobody gets what may be another's answer, nor hangs
        assert issubclass(broken, Exception)


async def test_a_run_that_is_cancelled_from_within_leaves_nobody_waiting() -> None:
    async def run(calls: Sequence[str]) -> Sequence[str]:
        if "first" in calls:
            raise asyncio.CancelledError
        return calls

    coalesced = coalescer(run, max_set=1)
    tasks = await start_all(coalesced, ["first", "second"])

    first, second = await finish(tasks)
    assert (first is not None, second) == (True, "second")


async def test_a_call_whose_shape_cannot_be_told_fails_alone_and_holds_no_place(
    database: Database,
) -> None:
    coalesced = coalescer(database, shape=lambda call: {"a": 1, "list": []}[call], max_waiting=1)
    tasks = [await start(coalesced(call)) for call in ("unknown", "list", "a")]
    await database.answer()

    assert await finish(tasks) == [KeyError, TypeError, "answer to a"]


# The bound on those who wait


async def test_past_its_bound_the_queue_refuses_at_once_and_takes_calls_again_when_it_may(
    database: Database,
) -> None:
    coalesced = coalescer(database, max_waiting=2)
    tasks = [await start(coalesced(call)) for call in (1, 2, 3)]
    for _ in range(3):
        assert outcome(await start(coalesced("refused"))) is QueueFull
    await database.answer()
    tasks += [await start(coalesced(call)) for call in (4, 5)]
    assert outcome(await start(coalesced("refused"))) is QueueFull
    await database.answer_all()

    assert database.sets == [[1], [2, 3], [4, 5]]
    assert await finish(tasks) == answers(1, 2, 3, 4, 5)


async def test_all_shapes_share_one_bound(database: Database) -> None:
    coalesced = coalescer(database, max_waiting=2, shape=lambda call: call)
    tasks = [await start(coalesced(call)) for call in "abc"]
    assert outcome(await start(coalesced("d"))) is QueueFull
    await database.answer_all()

    assert await finish(tasks) == answers(*"abc")


# Callers that go away


async def test_a_caller_that_goes_away_before_its_set_is_sent_frees_its_place(
    database: Database,
) -> None:
    coalesced = coalescer(database, max_waiting=3, shape=lambda call: call[0])
    tasks = [await start(coalesced(call)) for call in ("a1", "a2", "a3", "b1")]
    for gone in (tasks[1], tasks[3]):
        gone.cancel()
    await settle()
    tasks += [await start(coalesced(call)) for call in ("a4", "a5")]
    assert outcome(await start(coalesced("a6"))) is QueueFull
    await database.answer_all()

    assert database.sets == [["a1"], ["a3", "a4", "a5"]]
    left = [task for task in tasks if not task.cancelled()]
    assert await finish(left) == answers("a1", "a3", "a4", "a5")


async def test_when_all_who_wait_have_gone_nothing_is_sent(database: Database) -> None:
    coalesced = coalescer(database)
    first, *others = [await start(coalesced(call)) for call in (1, 2, 3)]
    for task in others:
        task.cancel()
    await settle()
    await database.answer()

    assert database.sets == [[1]]
    assert outcome(first) == "answer to 1"


@pytest.mark.parametrize("fault", [None, Broken(), Lost()])
async def test_a_caller_that_goes_away_while_its_set_is_under_way_is_not_noticed_by_the_others(
    database: Database, fault: Exception | None
) -> None:
    coalesced = coalescer(database)
    tasks = await start_all(coalesced, [1, 2, 3])
    tasks[1].cancel()
    await settle()
    assert [task.done() for task in tasks] == [False, True, False]
    await database.answer(fault)

    one, _, three = await finish(tasks)
    assert (one, three) == ((type(fault),) * 2 if fault else ("answer to 1", "answer to 3"))


@pytest.mark.parametrize("fault", [None, Broken(), DataFault()])
@pytest.mark.parametrize("turns", range(5))
async def test_a_caller_may_go_away_in_the_very_turn_in_which_its_set_ends(
    database: Database, fault: Exception | None, turns: int
) -> None:
    tasks = await start_all(coalescer(database), [1])
    reply = database.replies[0]
    reply.set_exception(fault) if fault else reply.set_result(None)
    await settle(turns)
    tasks[0].cancel()

    (result,) = await finish(tasks)
    assert result in (asyncio.CancelledError, type(fault) if fault else "answer to 1")


async def test_a_caller_that_has_gone_is_not_run_by_itself_when_the_bad_one_is_sought(
    database: Database,
) -> None:
    tasks = await start_all(coalescer(database), [1, 2, 3])
    tasks[0].cancel()
    await settle()
    await database.answer(DataFault())  # to the set; 2 is under way
    tasks[2].cancel()
    await settle()
    await database.answer()

    assert database.sets == [[1, 2, 3], [2]]
    assert outcome(tasks[1]) == "answer to 2"


async def test_when_the_event_loop_ends_sets_and_callers_end_with_it(database: Database) -> None:
    complaints: list[Any] = []
    tasks = []

    async def leave_them_behind() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda loop, context: complaints.append(context))
        coalesced = coalescer(database, max_set=2, max_sets=2)
        tasks.extend(await start_all(coalesced, range(10)))

    await asyncio.to_thread(asyncio.run, leave_them_behind())
    gc.collect()

    assert database.sets == [[0, 1], [2, 3]]
    assert database.replies == []  # `run` was cancelled, and could clean up
    assert all(task.cancelled() for task in tasks)
    assert complaints == []


# All of it at once, at any moment


@dataclass
class Call:
    shape: str
    is_bad: bool = False
    answer: Any = None  # or the kind of its error
    history: str = ""  # how each set that it was in has ended, by the letters below


class AnyDatabase(Database):
    """One whose sets fail when a call of theirs is bad, or when it is told that they do."""

    def __init__(self) -> None:
        super().__init__()
        self.most_under_way = 0

    async def run(self, calls: Sequence[Call]) -> Any:
        self.most_under_way = max(self.most_under_way, len(self.replies) + 1)
        ending = "answered"
        try:
            await super().run(calls)
            if any(call.is_bad for call in calls):
                raise DataFault
        except (DataFault, Lost, Broken) as fault:
            ending = type(fault).__name__
            raise
        finally:
            for call in calls:
                call.history += ENDINGS[ending] if len(calls) > 1 else ENDINGS[ending].lower()
        return calls

    def reply(self, index: int, fault: type[Exception] | None) -> None:
        """Answer one of the sets under way, if there are any."""
        if pending := [reply for reply in self.replies if not reply.done()]:
            reply = pending[index % len(pending)]
            reply.set_exception(fault()) if fault else reply.set_result(None)


# In small letters: of a set of one.
ENDINGS = {"answered": "A", "DataFault": "D", "Lost": "L", "Broken": "B"}
WRITE = re.compile("[ALB]|D?[aldb]")
READ = re.compile("L?[AB]|LL|(L?D)?(l?[adb]|ll)")

CALLS = st.builds(Call, st.sampled_from("aab"), st.sampled_from([False, False, True]))
STEPS = st.one_of(
    st.tuples(st.just("call"), st.lists(CALLS, min_size=1, max_size=3)),
    st.tuples(st.just("cancel"), st.integers(0, 40)),
    st.tuples(st.just("turn"), st.integers(1, 4)),
    st.tuples(st.just("reply"), st.integers(0, 3), st.sampled_from([None, None, Lost, Broken])),
)
OPTIONS = st.fixed_dictionaries(
    {
        "max_set": st.integers(1, 4),
        "max_sets": st.integers(1, 3),
        "max_waiting": st.integers(1, 8),
        "repeatable": st.booleans(),
    }
)


@hypothesis_settings(
    deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(options=OPTIONS, steps=st.lists(STEPS, max_size=60))
async def test_whatever_happens_each_call_gets_its_own_answer_or_its_own_error(
    options: dict[str, Any], steps: list[tuple[Any, ...]]
) -> None:
    database = AnyDatabase()
    coalesced = coalescer(database, shape=lambda call: call.shape, **options)
    callers: list[asyncio.Task[None]] = []
    made: list[Call] = []
    gone: list[Call] = []

    async def caller(calls: Sequence[Call]) -> None:
        """Make the calls, one after another."""
        for call in calls:
            made.append(call)
            try:
                call.answer = await coalesced(call)
            except (QueueFull, DataFault, Lost, Broken) as fault:
                call.answer = type(fault)
            except asyncio.CancelledError:
                gone.append(call)
                raise

    for step, *values in steps:
        if step == "call":
            callers.append(asyncio.create_task(caller(*values)))
        elif step == "cancel" and callers:
            callers[values[0] % len(callers)].cancel()
        elif step == "turn":
            await settle(*values)
        elif step == "reply":
            database.reply(*values)
    await settle()
    await database.answer_all()

    for members in database.sets:
        assert 1 <= len(members) <= options["max_set"]
        assert len({call.shape for call in members}) == 1
    assert database.most_under_way <= options["max_sets"]
    assert all(task.done() for task in callers)
    for call in made:
        is_gone = any(call is other for other in gone)
        if is_gone and (not call.history or call.history.endswith("D")):
            continue
        if call.history:
            assert (READ if options["repeatable"] else WRITE).fullmatch(call.history)
        if not is_gone:
            check_own(call)
    await check_is_as_new(coalesced, database, options)


def check_own(call: Call) -> None:
    """What a caller that stayed has got is its own."""
    if not call.history:
        assert call.answer is QueueFull
    elif call.history[-1] in "Aa":
        assert call.answer is call
    else:
        expected = {"d": DataFault, "L": Lost, "l": Lost, "B": Broken, "b": Broken}
        assert call.answer is expected[call.history[-1]]


async def check_is_as_new(
    coalesced: Coalescer[Any, Any], database: Database, options: dict[str, Any]
) -> None:
    """After all of them have gone, as many may be under way, and wait, as at first."""
    database.sets.clear()
    tasks = [await start(coalesced(Call("new"))) for _ in range(options["max_sets"])]
    assert len(database.sets) == len(database.replies) == options["max_sets"]
    tasks += [await start(coalesced(Call("new"))) for _ in range(options["max_waiting"])]
    assert outcome(await start(coalesced(Call("new")))) is QueueFull
    await database.answer_all()
    assert [task.exception() for task in tasks] == [None] * len(tasks)
