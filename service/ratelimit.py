"""Rate limits in slowapi's notation, counted without blocking the event loop.

slowapi's own check is synchronous and sees a request only once it has been read and found valid.
Its notation, key function and error are used here; the counting is done in the asynchronous
storages of `limits`, the library that slowapi stands on.
"""

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass
from time import monotonic, time
from typing import Any

import structlog
from fastapi import Request
from limits.aio.storage import MemoryStorage, RedisStorage
from limits.errors import StorageError
from slowapi.errors import RateLimitExceeded
from slowapi.util import get_remote_address
from slowapi.wrappers import Limit, LimitGroup

from service.access import client_name
from service.metrics import RATE_LIMIT_FAILURES, RATE_LIMITED
from service.settings import Settings

logger = structlog.get_logger(__name__)

REDIS_TIMEOUT = 0.09  # seconds; past it the request passes uncounted
REDIS_PAUSE = 1.0  # seconds without a try after one that failed: requests do not wait in vain
WARNING_INTERVAL = 10.0  # seconds between lines that say so


@dataclass(slots=True)
class State:
    """What a client has left of one limit; `reset` is in seconds."""

    limit: Limit
    name: str
    remaining: int
    reset: int


class RateLimiter:
    """Counts the requests of each client, those that read and those that write apart."""

    def __init__(self, settings: Settings) -> None:
        self.read = _limits(settings.rate_limit_read)
        self.write = _limits(settings.rate_limit_write)
        if settings.redis_url:
            # Where it is used and no sooner: it takes 17 MB of each worker's memory.
            from redis.asyncio.retry import Retry
            from redis.backoff import NoBackoff

            client: dict[str, Any] = {
                "socket_timeout": REDIS_TIMEOUT,
                "socket_connect_timeout": REDIS_TIMEOUT,
                "retry": Retry(NoBackoff(), 0),
                # Without greetings: each is a round trip of a new connection.
                "protocol": 2,
                "driver_info": None,
            }
            self.storage: MemoryStorage | RedisStorage = RedisStorage(
                f"async+{settings.redis_url.get_secret_value()}",
                wrap_exceptions=True,
                implementation="redispy",
                **client,
            )
        else:
            self.storage = MemoryStorage()
            logger.warning("rate_limits_per_worker", hint="set REDIS_URL to share the counters")
        self.paused_until = -math.inf
        self.warned = -math.inf

    async def check(self, request: Request) -> None:
        """Count `request`, and leave in its scope the headers that tell its client of its limits.

        Raises:
            RateLimitExceeded: its client has made too many; `headers` say when to come back.
        """
        kind = "read" if request.method == "GET" else "write"
        limits = self.read if kind == "read" else self.write
        if not limits:
            return
        if monotonic() < self.paused_until:
            RATE_LIMIT_FAILURES.inc()
            return
        try:
            async with asyncio.timeout(REDIS_TIMEOUT):
                states = [await self._count(limit, kind, request) for limit in limits]
        except (StorageError, TimeoutError) as exc:
            self._pass_uncounted(exc)
            return
        request.scope["rate_limit"] = _headers(states)
        for state in states:
            if state.remaining < 0:
                RATE_LIMITED.labels(kind).inc()
                error = RateLimitExceeded(state.limit)
                error.headers = {"Retry-After": str(state.reset)}
                raise error

    async def _count(self, limit: Limit, kind: str, request: Request) -> State:
        item = limit.limit
        key = item.key_for(kind, limit.key_func(request))
        window = item.get_expiry()
        # Together, and so in one round trip's time. What `FixedWindowRateLimiter` of `limits` does,
        # which does not tell the count.
        count, end = await asyncio.gather(
            self.storage.incr(key, window), self.storage.get_expiry(key)
        )
        # The first request begins the window; the other question may have been faster.
        reset = window if count == 1 else max(1, math.ceil(end - time()))
        return State(limit, f"{kind}-{window}", item.amount - count, min(reset, window))

    def _pass_uncounted(self, exc: Exception) -> None:
        """Do without Redis for a while, and say so, but not with every request."""
        RATE_LIMIT_FAILURES.inc()
        self.paused_until = monotonic() + REDIS_PAUSE
        if monotonic() - self.warned > WARNING_INTERVAL:
            self.warned = monotonic()
            cause = exc.storage_error if isinstance(exc, StorageError) else exc
            logger.warning("rate_limits_off", error=type(cause).__name__)


def _headers(states: Sequence[State]) -> list[tuple[bytes, bytes]]:
    """Of draft-ietf-httpapi-ratelimit-headers: the limits, and what is left of them."""
    policies = [
        f'"{state.name}";q={state.limit.limit.amount};w={state.limit.limit.get_expiry()}'
        for state in states
    ]
    left = [f'"{state.name}";r={max(0, state.remaining)};t={state.reset}' for state in states]
    return [
        (b"ratelimit-policy", ", ".join(policies).encode()),
        (b"ratelimit", ", ".join(left).encode()),
    ]


def create_rate_limiter(settings: Settings) -> RateLimiter | None:
    """The limiter, or None where no limit is set, so that there is nothing to pay for."""
    if settings.rate_limit_read or settings.rate_limit_write:
        return RateLimiter(settings)
    return None


def _client(request: Request) -> str:
    """Whose requests count together: those of one API key, else those from one address."""
    name = client_name(request)
    return f"key:{name}" if name else get_remote_address(request)


def _limits(notation: str) -> list[Limit]:
    if not notation:
        return []
    return list(LimitGroup(notation, _client, None, False, None, None, None, 1, False))
