"""Concurrent calls become one set: the driver, the pool and the commit are paid once for many.

While a set is under way, the calls that arrive wait and leave together as the next one. Nothing
waits on a timer: the call of an idle service is sent at once, and the busier it is the larger its
sets grow. Group commit in databases, and the "dataloader" of GraphQL servers, are the same idea.

    caller --call--> [ waiting, by shape ] --set--> a few senders --> run(set) --answers--> callers
"""

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Sequence
from contextvars import Context
from itertools import islice
from math import inf
from time import monotonic
from typing import Generic, TypeVar

Call = TypeVar("Call")
Answer = TypeVar("Answer")


class QueueFull(Exception):
    """More calls wait than may, or this one has waited for too long."""


class Coalescer(Generic[Call, Answer]):
    """Turns `run`, which takes a set of calls, into a function that takes one.

    1. A call joins only a set that is not sent yet: what it reads was read after it arrived.
    2. When a set fails on its data, its members run again one by one: only the offender fails.
    3. A caller that is cancelled leaves its set, and the others do not notice.
    4. Each caller gets the answer at its own call's place.
    5. Sets, and the calls that wait for one, are bounded, and so is how long they wait.
    6. So are the sets under way, and with them the connections they hold.
    7. A set whose answer was lost is sent once more only if that does no harm (`repeatable`).

    Args:
        run: Takes one or more calls of one shape and answers each, in their order.
        shape: Calls may share a set only if this is equal for them.
        max_set: Calls in a set.
        max_sets: Sets under way at once.
        max_waiting: Calls that may wait for a set.
        patience: Seconds that a call may wait for a set. Without this bound, where sets are dear,
            each would be sent when its caller is about to give up, and all of them in vain.
        repeatable: Whether running a set twice is the same as once: true for reads.
        is_data_fault: Whether an error of `run` is the fault of what some call holds. `run` must
            then have done nothing.
        is_lost: Whether an error of `run` leaves open what it has done, as a lost connection does.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Call]], Awaitable[Sequence[Answer]]],
        *,
        shape: Callable[[Call], Hashable] = lambda call: None,
        max_set: int = 100,
        max_sets: int,
        max_waiting: int,
        patience: float = inf,
        repeatable: bool = False,
        is_data_fault: Callable[[Exception], bool],
        is_lost: Callable[[Exception], bool],
    ) -> None:
        self._run = run
        self._shape = shape
        self._max_set = max_set
        self._max_sets = max_sets
        self._max_waiting = max_waiting
        self._patience = patience
        self._repeatable = repeatable
        self._is_data_fault = is_data_fault
        self._is_lost = is_lost
        # By shape, oldest first, each with when it came. A dictionary, as a cancelled call leaves
        # from the middle.
        self._waiting: dict[Hashable, dict[asyncio.Future[Answer], tuple[Call, float]]] = {}
        self._waiting_count = 0
        self._senders: set[asyncio.Task[None]] = set()

    @property
    def waiting(self) -> int:
        """Calls that wait for a set."""
        return self._waiting_count

    async def __call__(self, call: Call) -> Answer:
        """Send `call` with the next set, and wait for its answer.

        Raises:
            QueueFull: too many wait already, or it has waited for too long.
            Exception: what `run` raised for the call's set.
        """
        if self._waiting_count >= self._max_waiting:
            raise QueueFull
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        shape = self._shape(call)
        self._waiting.setdefault(shape, {})[future] = call, monotonic()
        self._waiting_count += 1
        if len(self._senders) < self._max_sets:
            # In a context of its own: what it logs belongs to no single caller. It begins when
            # the calls that arrived in this turn of the event loop have all joined.
            self._senders.add(asyncio.create_task(self._send_sets(), context=Context()))
        try:
            return await future
        except asyncio.CancelledError:
            self._leave(shape, future)
            raise

    async def _send_sets(self) -> None:
        """Send sets for as long as calls wait."""
        sender = asyncio.current_task()
        assert sender is not None
        try:
            while self._waiting:
                members = self._next_set()
                try:
                    if members:
                        await self._send(members)
                except asyncio.CancelledError:
                    if sender.cancelling():
                        raise
                    # Else something within `run` was cancelled: the next set may fare better.
                finally:
                    for future in members:  # some are left only after a cancellation
                        future.cancel()
        finally:
            # At once, not by a callback: a call that arrives in between would wait for a sender
            # that has gone.
            self._senders.discard(sender)

    def _next_set(self) -> dict[asyncio.Future[Answer], Call]:
        """Take calls of the shape that has waited longest."""
        shape = next(iter(self._waiting))
        queue = self._waiting.pop(shape)
        oldest = monotonic() - self._patience
        members = {}
        for future in list(islice(queue, self._max_set)):
            call, came = queue.pop(future)
            self._waiting_count -= 1
            if future.done():  # cancelled in this very turn, without a chance to leave
                continue
            if came < oldest:
                future.set_exception(QueueFull())
            else:
                members[future] = call
        if queue:
            self._waiting[shape] = queue  # at the end: no shape can keep the others waiting
        return members

    async def _send(self, members: dict[asyncio.Future[Answer], Call]) -> None:
        """Run the set and hand out the answers, or the error."""
        try:
            answers = await self._run_set(list(members.values()))
            if len(answers) != len(members):
                raise ValueError(f"{len(answers)} answers to {len(members)} calls")
        except Exception as exc:
            if len(members) > 1 and self._is_data_fault(exc):
                for future, call in members.items():
                    if not future.done():
                        await self._send({future: call})
                return
            for future in members:
                if not future.done():
                    future.set_exception(exc)
        else:
            for future, answer in zip(members, answers, strict=True):
                if not future.done():
                    future.set_result(answer)

    async def _run_set(self, calls: Sequence[Call]) -> Sequence[Answer]:
        try:
            return await self._run(calls)
        except Exception as exc:
            if self._repeatable and self._is_lost(exc):
                return await self._run(calls)
            raise

    def _leave(self, shape: Hashable, future: asyncio.Future[Answer]) -> None:
        """Take a call out of those that wait, if it still does."""
        queue = self._waiting.get(shape, {})
        if queue.pop(future, None) is not None:
            self._waiting_count -= 1
            if not queue:
                del self._waiting[shape]
