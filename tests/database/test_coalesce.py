"""The coalescer: when a call is sent and with which others, and what happens when a batch fails."""

import asyncio
import gc
from collections.abc import AsyncIterator, Sequence
from contextvars import ContextVar
from typing import Any

import pytest

from service.database import coalescer as module
from service.errors import QueueFull
from tests.support.apps import no_complaints
from tests.support.coalescing import (
    Broken,
    DataFault,
    FakeDatabase,
    Lost,
    answers,
    coalescer,
    outcome,
    outcomes,
    resolve,
    settle,
    start_each,
    start_together,
)


@pytest.fixture
def db() -> FakeDatabase:
    return FakeDatabase()


@pytest.fixture(autouse=True)
async def nothing_left_behind() -> AsyncIterator[None]:
    """Assert that no task outlives a test, and that asyncio reports no unretrieved error."""
    tasks = len(asyncio.all_tasks())
    async with no_complaints():
        yield
        await settle()
    assert len(asyncio.all_tasks()) == tasks


# Which calls share a batch, and when it is sent


async def test_a_call_on_an_idle_coalescer_is_sent_in_the_next_loop_turn(db: FakeDatabase) -> None:
    task = asyncio.create_task(coalescer(db, max_sets=2)(1))
    await asyncio.sleep(0)  # the caller's turn
    assert db.batches == []
    await asyncio.sleep(0)  # the sender's turn
    assert db.batches == [[1]]

    await db.answer()
    assert outcome(task) == "answer to 1"


async def test_calls_of_one_loop_turn_share_a_batch_even_if_equal(db: FakeDatabase) -> None:
    tasks = await start_together(coalescer(db, max_sets=5), 1, 2, 2)
    await db.answer()

    assert db.batches == [[1, 2, 2]]
    assert await outcomes(tasks) == answers(1, 2, 2)


async def test_calls_wait_for_the_batch_in_flight_and_leave_together(db: FakeDatabase) -> None:
    tasks = await start_each(coalescer(db), 1, 2, 3)
    assert db.batches == [[1]]

    await db.answer()
    assert db.batches == [[1], [2, 3]]
    assert await outcomes(tasks) == ["answer to 1", None, None]
    await db.answer()
    assert await outcomes(tasks) == answers(1, 2, 3)


@pytest.mark.parametrize("turns", range(5))
async def test_a_call_made_while_the_senders_end_is_sent(db: FakeDatabase, turns: int) -> None:
    coalesced = coalescer(db, max_sets=2)
    tasks = await start_each(coalesced, 1, 2)
    for reply in db.in_flight:
        resolve(reply, None)
    await settle(turns)
    tasks += await start_each(coalesced, 3)
    await db.answer()

    assert db.batches == [[1], [2], [3]]
    assert await outcomes(tasks) == answers(1, 2, 3)


async def test_a_slow_batch_does_not_delay_the_others(db: FakeDatabase) -> None:
    slow, *fast = await start_together(coalescer(db, max_set=1, max_sets=3), *range(6))
    in_flight = []
    for _ in fast:
        in_flight.append(len(db.in_flight))
        resolve(db.in_flight[-1], None)
        await settle()
    assert in_flight == [3, 3, 3, 3, 2]
    assert await outcomes([slow, *fast]) == [None, *answers(*range(1, 6))]

    await db.answer()
    assert outcome(slow) == "answer to 0"


async def test_a_batch_holds_calls_of_one_shape_and_shapes_take_turns(db: FakeDatabase) -> None:
    coalesced = coalescer(db, max_set=2, shape=lambda call: call[0])
    calls = ["a1", "a2", "a3", "a4", "a5", "b1", "c1"]
    tasks = await start_together(coalesced, *calls)
    await db.answer()  # to a1 and a2; more calls of the busy shape arrive
    tasks += await start_together(coalesced, "a6", "b2")
    await db.answer_all()

    assert db.batches == [["a1", "a2"], ["b1"], ["c1"], ["a3", "a4"], ["b2"], ["a5", "a6"]]
    assert await outcomes(tasks) == answers(*calls, "a6", "b2")


async def test_a_batch_runs_outside_of_its_callers_context() -> None:
    request_id = ContextVar("request_id", default="none")
    request_id.set("the first caller's")

    async def run(calls: Sequence[int]) -> Sequence[str]:
        return [request_id.get() for _ in calls]

    assert await coalescer(run)(1) == "none"


# A batch that fails


async def test_one_bad_call_of_a_batch_fails_alone(db: FakeDatabase) -> None:
    tasks = await start_together(coalescer(db), "good", "bad", "fine")
    for error in (DataFault(), None, DataFault(), DataFault(), None):
        await db.answer(error)

    assert db.batches == [["good", "bad", "fine"], ["good"], ["bad", "fine"], ["bad"], ["fine"]]
    assert await outcomes(tasks) == ["answer to good", DataFault, "answer to fine"]


@pytest.mark.parametrize(
    ("repeatable", "errors", "expected"),
    [
        pytest.param(True, [Lost()], answers(1, 2), id="read lost once"),
        pytest.param(True, [Lost(), Lost()], [Lost, Lost], id="read lost twice"),
        pytest.param(True, [Broken()], [Broken, Broken], id="read failed"),
        pytest.param(False, [Lost()], [Lost, Lost], id="write lost"),
        pytest.param(False, [Broken()], [Broken, Broken], id="write failed"),
    ],
)
async def test_only_a_lost_read_is_sent_again_and_only_once(
    db: FakeDatabase, repeatable: bool, errors: list[Exception], expected: list[Any]
) -> None:
    coalesced = coalescer(db, repeatable=repeatable)
    tasks = await start_together(coalesced, 1, 2)
    tasks += await start_each(coalesced, 3)
    for error in errors:
        await db.answer(error)
    await db.answer_all()

    attempts = 2 if repeatable and isinstance(errors[0], Lost) else 1
    assert db.batches == [[1, 2]] * attempts + [[3]]
    assert await outcomes(tasks) == [*expected, "answer to 3"]


@pytest.mark.parametrize("given", [[], ["one"], ["one", "two", "three"]], ids=len)
async def test_a_wrong_number_of_answers_fails_the_batch(given: list[str]) -> None:
    async def run(calls: Sequence[str]) -> Sequence[str]:
        return given if "first" in calls else calls

    tasks = await start_together(coalescer(run, max_set=2), "first", "second", "third")

    assert await outcomes(tasks) == [ValueError, ValueError, "third"]


async def test_a_run_that_cancels_itself_leaves_no_caller_waiting() -> None:
    async def run(calls: Sequence[str]) -> Sequence[str]:
        if "first" in calls:
            raise asyncio.CancelledError
        return calls

    tasks = await start_together(coalescer(run, max_set=1), "first", "second")

    assert await outcomes(tasks) == [asyncio.CancelledError, "second"]


async def test_a_call_whose_shape_fails_takes_no_place_in_the_queue(db: FakeDatabase) -> None:
    shapes: dict[str, Any] = {"a": 1, "unhashable": []}
    coalesced = coalescer(db, shape=shapes.__getitem__, max_waiting=1)
    tasks = await start_each(coalesced, "unknown", "unhashable", "a")
    await db.answer()

    assert await outcomes(tasks) == [KeyError, TypeError, "answer to a"]


# The bounds on the queue


async def test_a_full_queue_refuses_calls_until_a_batch_leaves(db: FakeDatabase) -> None:
    coalesced = coalescer(db, max_waiting=2, shape=lambda call: call[0])
    tasks = await start_each(coalesced, "a1", "a2", "b1")
    assert coalesced.waiting == 2
    assert await outcomes(await start_each(coalesced, "a0", "b0", "c0")) == [QueueFull] * 3
    await db.answer()
    assert coalesced.waiting == 1
    tasks += await start_each(coalesced, "c1")
    assert await outcomes(await start_each(coalesced, "a0")) == [QueueFull]
    await db.answer_all()

    assert db.batches == [["a1"], ["a2"], ["b1"], ["c1"]]
    assert await outcomes(tasks) == answers("a1", "a2", "b1", "c1")


async def test_a_call_that_has_waited_longer_than_it_may_is_refused(
    db: FakeDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr(module, "monotonic", lambda: now)
    coalesced = coalescer(db, max_wait=2)
    tasks = await start_each(coalesced, 1, 2)
    now = 101.0
    tasks += await start_each(coalesced, 3)
    now = 103.0  # 2 has waited for 3 s, and 3 for exactly 2 s
    await db.answer_all()

    assert db.batches == [[1], [3]]
    assert await outcomes(tasks) == ["answer to 1", QueueFull, "answer to 3"]


# Callers that are cancelled


async def test_a_caller_cancelled_while_it_waits_frees_its_place(db: FakeDatabase) -> None:
    coalesced = coalescer(db, max_waiting=3, shape=lambda call: call[0])
    tasks = await start_each(coalesced, "a1", "a2", "a3", "b1")
    for cancelled in (tasks.pop(3), tasks.pop(1)):
        cancelled.cancel()
    await settle()
    tasks += await start_each(coalesced, "a4", "a5")
    assert await outcomes(await start_each(coalesced, "a6")) == [QueueFull]
    await db.answer_all()

    assert db.batches == [["a1"], ["a3", "a4", "a5"]]
    assert await outcomes(tasks) == answers("a1", "a3", "a4", "a5")


async def test_a_caller_cancelled_as_the_batch_in_flight_ends_is_not_sent(db: FakeDatabase) -> None:
    coalesced = coalescer(db)
    tasks = await start_each(coalesced, 1, 2, 3)
    resolve(db.in_flight[0], None)
    tasks[1].cancel()
    await settle()
    assert coalesced.waiting == 0
    await db.answer()

    assert db.batches == [[1], [3]]
    assert await outcomes(tasks) == ["answer to 1", asyncio.CancelledError, "answer to 3"]


async def test_a_caller_cancelled_in_flight_ends_at_once_unnoticed(db: FakeDatabase) -> None:
    tasks = await start_together(coalescer(db), 1, 2, 3)
    tasks[1].cancel()
    assert await outcomes(tasks) == [None, asyncio.CancelledError, None]
    await db.answer()

    assert await outcomes(tasks) == ["answer to 1", asyncio.CancelledError, "answer to 3"]


async def test_a_split_batch_leaves_out_cancelled_callers(db: FakeDatabase) -> None:
    tasks = await start_together(coalescer(db), 1, 2, 3, 4)
    tasks[0].cancel()
    await db.answer(DataFault())  # to the batch; the first half is in flight now
    tasks[3].cancel()
    await db.answer()
    await db.answer()

    assert db.batches == [[1, 2, 3, 4], [2], [3]]
    assert [outcome(task) for task in tasks[1:3]] == ["answer to 2", "answer to 3"]


async def test_batches_and_callers_end_with_the_event_loop(db: FakeDatabase) -> None:
    complaints: list[Any] = []
    tasks: list[asyncio.Task[Any]] = []

    async def leave_them_behind() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda loop, context: complaints.append(context))
        tasks.extend(await start_together(coalescer(db, max_set=2, max_sets=2), *range(10)))

    await asyncio.to_thread(asyncio.run, leave_them_behind())
    gc.collect()

    assert db.batches == [[0, 1], [2, 3]]
    assert db.in_flight == []  # `run` was cancelled, and cleaned up
    assert all(task.cancelled() for task in tasks)
    assert complaints == []
