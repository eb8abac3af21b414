"""Counters of fixed windows of time: a window begins with its first hit, and ends by itself.

They stand in for the asynchronous storages of `limits`, the library under slowapi: its own in
memory looks at the counters of all clients with each hit, and its own in Redis takes two round
trips for each limit and rounds what is left of a window.
"""

import asyncio
import math
from collections.abc import Sequence
from contextvars import Context
from dataclasses import dataclass
from time import monotonic
from typing import Any, Protocol

import structlog

from service.coalesce import Coalescer, QueueFull
from service.patience import in_time

logger = structlog.get_logger(__name__)

LOOKS = 13  # of service/patience.py, 65 ms, that a request waits for Redis
PAUSE = 1.0  # seconds between looks whether Redis is back
WARNING_INTERVAL = 10.0  # seconds between lines that say that it is not
SETS = 4  # under way at once, and so connections of a worker
SWEEP_INTERVAL = 10.0  # seconds between looks whose windows are over

HIT = """
local hits = {}
for i, key in ipairs(KEYS) do
    local count = redis.call('INCR', key)
    if count == 1 then redis.call('PEXPIRE', key, ARGV[i]) end
    hits[i] = {count, redis.call('PTTL', key)}
end
return hits
"""


class CountersAway(Exception):
    """The counters cannot be asked at the moment."""


@dataclass(slots=True, frozen=True)
class Window:
    """What is counted together, for so many seconds."""

    key: str
    seconds: int


@dataclass(slots=True, frozen=True)
class Hit:
    """Which one it was in its window, and in how many seconds that ends."""

    count: int
    seconds_left: float


TRIAL = [Window("LIMITS/trial/1", 1), Window("LIMITS/trial/2", 1)]  # two: a cluster refuses that


class Counters(Protocol):
    """Where hits are counted."""

    async def hit(self, windows: Sequence[Window]) -> Sequence[Hit]:
        """Count one more in each of the windows.

        Raises:
            CountersAway: it is not known whether they were counted.
        """


class MemoryCounters:
    """In this process, for itself."""

    def __init__(self) -> None:
        self._counts: dict[str, tuple[int, float]] = {}  # and when the window ends
        self._sweep_at = 0.0

    async def hit(self, windows: Sequence[Window]) -> Sequence[Hit]:
        """Count one more in each of the windows."""
        now = monotonic()
        hits = []
        for window in windows:
            count, end = self._counts.get(window.key, (0, 0.0))
            if end <= now:
                count, end = 0, now + window.seconds
            self._counts[window.key] = count + 1, end
            hits.append(Hit(count + 1, end - now))
        if now >= self._sweep_at:
            self._counts = {key: each for key, each in self._counts.items() if each[1] > now}
            self._sweep_at = now + SWEEP_INTERVAL
        return hits


class RedisCounters:
    """In Redis, for all processes: the hits of concurrent requests go there together.

    Nobody waits for a Redis that is known to be away.

    Args:
        url: its address.
        most_waiting: hits that may wait to be sent.
    """

    def __init__(self, url: str, most_waiting: int) -> None:
        # Where it is used and no sooner: it takes 17 MB of each worker's memory.
        from redis import RedisError
        from redis.asyncio import Redis
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff

        # Not to wait for an answer any more is the caller's decision: it may come all the same.
        patience: Any = {"socket_timeout": PAUSE, "socket_connect_timeout": PAUSE}
        self._redis = Redis.from_url(
            url,
            retry=Retry(NoBackoff(), 0),
            # Without greetings: each is a round trip of a new connection.
            protocol=2,
            driver_info=None,
            **patience,
        )
        self._faults = (RedisError, OSError)  # a TimeoutError is an OSError
        self._hit = Coalescer(
            self._hit_all,
            max_sets=SETS,
            max_waiting=most_waiting,
            is_data_fault=lambda fault: False,
            is_lost=lambda fault: False,
        )
        self._look: asyncio.Task[None] | None = None  # whether it is back; None while it is there
        self._warned = -math.inf

    async def hit(self, windows: Sequence[Window]) -> Sequence[Hit]:
        """Count one more in each of the windows.

        Raises:
            CountersAway: Redis does not answer, or not in time; it may have counted.
        """
        if self._look:
            raise CountersAway
        try:
            return await in_time(self._hit(windows), LOOKS)
        except QueueFull:
            raise CountersAway from None
        except self._faults as exc:
            self._stay_away(exc)
            raise CountersAway from exc

    async def _hit_all(self, calls: Sequence[Sequence[Window]]) -> Sequence[Sequence[Hit]]:
        windows = [window for call in calls for window in call]
        keys = [window.key for window in windows]
        # With its text each time: to have Redis know it would be another thing that it may forget.
        answers = await self._redis.eval(
            HIT, len(keys), *keys, *(str(window.seconds * 1000) for window in windows)
        )
        hits = iter([Hit(count, left / 1000) for count, left in answers])
        return [[next(hits) for _ in call] for call in calls]

    def _stay_away(self, fault: Exception) -> None:
        """Ask Redis no more until it is back."""
        if self._look is None:
            self._warn(fault)
            # In a context of its own: what it logs belongs to no request.
            self._look = asyncio.create_task(self._look_for_return(), context=Context())

    def _warn(self, fault: Exception) -> None:
        """Say that nobody is limited, though not each time."""
        if monotonic() - self._warned > WARNING_INTERVAL:
            self._warned = monotonic()
            logger.warning("rate_limits_off", error=type(fault).__name__)

    async def _look_for_return(self) -> None:
        try:
            while fault := await self._fault_of_trial():
                self._warn(fault)
                await asyncio.sleep(PAUSE)
        finally:
            self._look = None

    async def _fault_of_trial(self) -> Exception | None:
        """Count as requests do: a Redis that answers may yet refuse to write, or to run scripts."""
        try:
            await self._hit_all([TRIAL])  # in as long as a new connection takes
            await in_time(self._hit_all([TRIAL]), LOOKS)
        except self._faults as exc:
            return exc
        return None
