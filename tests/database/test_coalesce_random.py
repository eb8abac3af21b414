"""The coalescer under random calls, cancellations and errors, in any order."""

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from service.errors import QueueFull
from tests.support.coalescing import (
    Broken,
    DataFault,
    FakeDatabase,
    Lost,
    coalescer,
    outcomes,
    resolve,
    settle,
    start_each,
)


@dataclass(eq=False)
class Call:
    shape: str
    is_bad: bool = False
    outcome: Any = None  # the answer, or the type of the error
    # A letter for each batch that held the call: of `ENDINGS`, in lower case for a batch of one.
    history: str = ""


ENDINGS: dict[type[Exception] | None, str] = {None: "A", DataFault: "D", Lost: "L", Broken: "B"}
# What may happen to a call: its batches fail on data until one ends otherwise. A lost batch of
# reads is sent once more.
WRITE = re.compile("D*[ALB]|D*[aldb]")
READ = re.compile("(L?D)*(L?[AB]|LL|l?[adb]|ll)")


class RandomDatabase(FakeDatabase):
    """Fails a batch that holds a bad call; the test decides on the other errors."""

    async def run(self, calls: Sequence[Call]) -> Any:
        ending: type[Exception] | None = None
        try:
            await super().run(calls)
            if any(call.is_bad for call in calls):
                raise DataFault
        except (DataFault, Lost, Broken) as error:
            ending = type(error)
            raise
        finally:
            for call in calls:
                call.history += ENDINGS[ending] if len(calls) > 1 else ENDINGS[ending].lower()
        return calls


CALLS = st.builds(Call, st.sampled_from("aab"), st.sampled_from([False, False, True]))
STEPS = st.one_of(
    st.tuples(st.just("call"), st.lists(CALLS, min_size=1, max_size=3)),
    st.tuples(st.just("cancel"), st.integers(0, 40)),
    st.tuples(st.just("settle"), st.integers(1, 4)),
    st.tuples(st.just("answer"), st.integers(0, 3), st.sampled_from([None, None, Lost, Broken])),
)
OPTIONS = st.fixed_dictionaries(
    {
        "max_set": st.integers(1, 4),
        "max_sets": st.integers(1, 3),
        "max_waiting": st.integers(1, 8),
        "repeatable": st.booleans(),
    }
)


@hypothesis_settings(deadline=None, derandomize=True, max_examples=100)
@given(options=OPTIONS, steps=st.lists(STEPS, max_size=60))
async def test_each_call_gets_its_own_answer_or_error(
    options: dict[str, Any], steps: list[tuple[Any, ...]]
) -> None:
    database = RandomDatabase()
    coalesced = coalescer(database, shape=lambda call: call.shape, **options)
    callers: list[asyncio.Task[None]] = []
    made: list[Call] = []

    async def make_in_turn(calls: Sequence[Call]) -> None:
        for call in calls:
            made.append(call)
            try:
                call.outcome = await coalesced(call)
            except (QueueFull, DataFault, Lost, Broken) as error:
                call.outcome = type(error)
            except asyncio.CancelledError:
                call.outcome = asyncio.CancelledError
                raise

    for step, *values in steps:
        pending = [reply for reply in database.in_flight if not reply.done()]
        assert len(pending) <= options["max_sets"]
        if step == "call":
            callers.append(asyncio.create_task(make_in_turn(*values)))
        elif step == "cancel" and callers:
            callers[values[0] % len(callers)].cancel()
        elif step == "settle":
            await settle(*values)
        elif step == "answer" and pending:
            index, error = values
            resolve(pending[index % len(pending)], error and error())
    await settle()
    await database.answer_all()

    assert all(caller.done() for caller in callers)
    for batch in database.batches:
        assert 1 <= len(batch) <= options["max_set"]
        assert len({call.shape for call in batch}) == 1
    for call in made:
        check_own_outcome(call, READ if options["repeatable"] else WRITE)

    # As many batches can be in flight, and as many calls wait, as at first.
    database.batches.clear()
    tasks = await start_each(coalesced, *(Call("new") for _ in range(options["max_sets"])))
    assert len(database.batches) == len(database.in_flight) == options["max_sets"]
    tasks += await start_each(coalesced, *(Call("new") for _ in range(options["max_waiting"])))
    assert await outcomes(await start_each(coalesced, Call("new"))) == [QueueFull]
    await database.answer_all()
    assert [task.exception() for task in tasks] == [None] * len(tasks)


def check_own_outcome(call: Call, allowed: re.Pattern[str]) -> None:
    """Assert that the outcome of `call` is that of the last batch that held it."""
    is_cancelled = call.outcome is asyncio.CancelledError
    if is_cancelled and call.history.strip("DL") == "":  # perhaps between two batches
        return
    if not call.history:
        assert call.outcome is QueueFull
        return
    assert allowed.fullmatch(call.history)
    if not is_cancelled:
        (ending,) = (end for end, letter in ENDINGS.items() if letter == call.history[-1].upper())
        assert call.outcome is (ending or call)
