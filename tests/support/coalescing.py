"""A coalescer on a fake database, which answers each batch when the test tells it to."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from service.database.coalescer import Coalescer


class DataFault(Exception):
    """A call of the batch has bad data."""


class Lost(Exception):
    """The connection broke before the answer to the batch arrived."""


class Broken(Exception):
    """Any other error of a batch."""


class FakeDatabase:
    """Records the batches that it receives; each stays in flight until the test answers it."""

    def __init__(self) -> None:
        self.batches: list[list[Any]] = []
        self.in_flight: list[asyncio.Future[None]] = []  # oldest first

    async def run(self, calls: Sequence[Any]) -> list[str]:
        reply = asyncio.get_running_loop().create_future()
        self.batches.append(list(calls))
        self.in_flight.append(reply)
        try:
            await reply
        finally:
            self.in_flight.remove(reply)
        return answers(*calls)

    async def answer(self, error: Exception | None = None) -> None:
        """Answer the oldest batch in flight, or fail it with `error`."""
        resolve(self.in_flight[0], error)
        await settle()

    async def answer_all(self) -> None:
        while self.in_flight:
            await self.answer()


def answers(*calls: Any) -> list[str]:
    """Return what the database answers to `calls`."""
    return [f"answer to {call}" for call in calls]


def resolve(reply: asyncio.Future[None], error: Exception | None) -> None:
    """Answer a batch in flight; the event loop has yet to run what follows."""
    if error:
        reply.set_exception(error)
    else:
        reply.set_result(None)


async def settle(turns: int = 20) -> None:
    """Run the event loop until it only waits for the database."""
    for _ in range(turns):
        await asyncio.sleep(0)


def coalescer(
    run: FakeDatabase | Callable[..., Any], repeatable: bool = False, **options: Any
) -> Coalescer[Any, Any]:
    """Return a coalescer that sends one batch at a time, unless `options` say otherwise.

    Args:
        repeatable: whether a batch may run again after `Lost`.
    """
    defaults: dict[str, Any] = {
        "max_sets": 1,
        "max_waiting": 1000,
        "is_data_fault": lambda error: isinstance(error, DataFault),
        "may_repeat": lambda error: repeatable and isinstance(error, Lost),
    }
    return Coalescer(run.run if isinstance(run, FakeDatabase) else run, **defaults | options)


async def start_each(coalesced: Coalescer[Any, Any], *calls: Any) -> list[asyncio.Task[Any]]:
    """Make calls, each in a separate turn of the event loop."""
    tasks = []
    for call in calls:
        tasks.append(asyncio.create_task(coalesced(call)))
        await settle()
    return tasks


async def start_together(coalesced: Coalescer[Any, Any], *calls: Any) -> list[asyncio.Task[Any]]:
    """Make calls in one turn of the event loop."""
    tasks = [asyncio.create_task(coalesced(call)) for call in calls]
    await settle()
    return tasks


def outcome(task: asyncio.Task[Any]) -> Any:
    """Return the answer to a call or the type of its error; None if it still waits."""
    if not task.done():
        return None
    if task.cancelled():
        return asyncio.CancelledError
    return type(error) if (error := task.exception()) else task.result()


async def outcomes(tasks: Sequence[asyncio.Task[Any]]) -> list[Any]:
    """Return the outcome of each call once the event loop is idle."""
    await settle()
    return [outcome(task) for task in tasks]
