"""Join concurrent calls into sets, so that one statement and one commit serve many requests.

While a set is in flight, new calls wait; they leave together as the next set. Nothing waits on a
timer: an idle service sends a call at once, a busy one sends larger sets. Group commit in databases
and the "dataloader" of GraphQL servers are the same technique.

    caller --call--> [ waiting, by shape ] --set--> a few senders --> run(set) --answers--> callers
"""

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Sequence
from contextvars import Context
from itertools import islice
from math import inf
from time import monotonic
from typing import Generic, TypeVar

from service.errors import QueueFull

Call = TypeVar("Call")
Answer = TypeVar("Answer")


class Coalescer(Generic[Call, Answer]):
    """Turn `run`, which takes a set of calls, into a function that takes one call.

    1. A call joins only a set that has not been sent: it reads what was committed before it came.
    2. A set that fails on its data is split by halves: only the faulty calls fail.
    3. A cancelled caller leaves its set; the others do not notice.
    4. Each caller gets the answer at the position of its own call.
    5. The size of a set, the number of waiting calls and their time are bounded.
    6. The number of sets in flight is bounded, and with it the connections they hold.
    7. A set is sent again, once, only after an error for which `may_repeat` is true.

    Args:
        run: takes one or more calls of one shape; returns their answers in order.
        shape: calls share a set only if this is equal for them.
        max_set: maximum number of calls in a set.
        max_sets: maximum number of sets in flight.
        max_waiting: maximum number of calls that wait for a set.
        max_wait: seconds that a call may wait. Where sets are expensive, calls would otherwise be
            sent just before their callers give up, and all of that work would be lost.
        is_data_fault: whether an error of `run` is caused by the content of a call, in which case
            `run` changed nothing.
        may_repeat: whether a set may run once more after an error of `run`.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Call]], Awaitable[Sequence[Answer]]],
        *,
        shape: Callable[[Call], Hashable] = lambda call: None,
        max_set: int = 100,
        max_sets: int,
        max_waiting: int,
        max_wait: float = inf,
        is_data_fault: Callable[[Exception], bool],
        may_repeat: Callable[[Exception], bool],
    ) -> None:
        self._run = run
        self._shape = shape
        self._max_set = max_set
        self._max_sets = max_sets
        self._max_waiting = max_waiting
        self._max_wait = max_wait
        self._is_data_fault = is_data_fault
        self._may_repeat = may_repeat
        # By shape, oldest first, with arrival times. A cancelled call leaves from the middle.
        self._waiting: dict[Hashable, dict[asyncio.Future[Answer], tuple[Call, float]]] = {}
        self._waiting_count = 0
        self._senders: set[asyncio.Task[None]] = set()

    @property
    def waiting(self) -> int:
        """The number of calls that wait for a set."""
        return self._waiting_count

    async def __call__(self, call: Call) -> Answer:
        """Send `call` with the next set and return its answer.

        Raises:
            QueueFull: too many calls wait, or this one waited too long.
            Exception: the error of `run`.
        """
        if self._waiting_count >= self._max_waiting:
            raise QueueFull
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        shape = self._shape(call)
        self._waiting.setdefault(shape, {})[future] = call, monotonic()
        self._waiting_count += 1
        if len(self._senders) < self._max_sets:
            # A new context, as its log lines belong to no single caller. It starts after all calls
            # of this turn of the event loop have joined.
            self._senders.add(asyncio.create_task(self._send_sets(), context=Context()))
        try:
            return await future
        except asyncio.CancelledError:
            self._leave(shape, future)
            raise

    async def _send_sets(self) -> None:
        """Send sets while calls wait."""
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
                    # Otherwise something inside `run` was cancelled; go on with the next set.
                finally:
                    for future in members:  # those without an answer, after a cancellation
                        future.cancel()
        finally:
            # Not in a callback: a call that arrives before it would wait for a sender that ended.
            self._senders.discard(sender)

    def _next_set(self) -> dict[asyncio.Future[Answer], Call]:
        """Take the next calls of the shape that has waited longest."""
        shape = next(iter(self._waiting))
        queue = self._waiting.pop(shape)
        oldest = monotonic() - self._max_wait
        members = {}
        for future in list(islice(queue, self._max_set)):
            call, came = queue.pop(future)
            self._waiting_count -= 1
            if future.done():  # cancelled in this turn
                continue
            if came < oldest:
                future.set_exception(QueueFull())
            else:
                members[future] = call
        if queue:
            self._waiting[shape] = queue  # at the end, so that shapes take turns
        return members

    async def _send(self, members: dict[asyncio.Future[Answer], Call]) -> None:
        """Run a set and give each caller its answer, or the error."""
        try:
            answers = await self._run_set(list(members.values()))
            if len(answers) != len(members):
                raise ValueError(f"{len(answers)} answers to {len(members)} calls")
        except Exception as exc:
            if len(members) > 1 and self._is_data_fault(exc):
                await self._send_halves(members)
                return
            for future in members:
                if not future.done():
                    future.set_exception(exc)
        else:
            for future, answer in zip(members, answers, strict=True):
                if not future.done():
                    future.set_result(answer)

    async def _send_halves(self, members: dict[asyncio.Future[Answer], Call]) -> None:
        pairs = list(members.items())
        middle = len(pairs) // 2
        for half in (pairs[:middle], pairs[middle:]):
            if left := {future: call for future, call in half if not future.done()}:
                await self._send(left)

    async def _run_set(self, calls: Sequence[Call]) -> Sequence[Answer]:
        try:
            return await self._run(calls)
        except Exception as exc:
            if not self._may_repeat(exc):
                raise
        return await self._run(calls)

    def _leave(self, shape: Hashable, future: asyncio.Future[Answer]) -> None:
        """Remove a call that still waits."""
        queue = self._waiting.get(shape, {})
        if queue.pop(future, None) is not None:
            self._waiting_count -= 1
            if not queue:
                del self._waiting[shape]
