"""Rate limits in slowapi's notation, counted without blocking the event loop.

slowapi's own check is synchronous and sees a request only once it has been read and found valid.
Its notation, key function and error are used here; the counting is done by the asynchronous
strategies of `limits`, the library that slowapi stands on.
"""

import math
from time import monotonic, time
from typing import Any

import structlog
from fastapi import Request
from limits.aio.storage import MemoryStorage, RedisStorage
from limits.aio.strategies import FixedWindowRateLimiter
from limits.errors import StorageError
from slowapi.errors import RateLimitExceeded
from slowapi.util import get_remote_address
from slowapi.wrappers import Limit, LimitGroup

from service.access import client_name
from service.settings import Settings

logger = structlog.get_logger(__name__)

REDIS_TIMEOUT = 0.1  # seconds; past it the request passes uncounted
WARNING_INTERVAL = 10.0  # seconds between lines that say so


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
        self.strategy = FixedWindowRateLimiter(self.storage)
        self.warned = -math.inf

    async def check(self, request: Request) -> None:
        """Count `request`.

        Raises:
            RateLimitExceeded: its client has made too many; `headers` say when to come back.
        """
        kind = "read" if request.method == "GET" else "write"
        limits = self.read if kind == "read" else self.write
        try:
            for limit in limits:
                client = limit.key_func(request)
                if not await self.strategy.hit(limit.limit, kind, client):
                    window = await self.strategy.get_window_stats(limit.limit, kind, client)
                    error = RateLimitExceeded(limit)
                    wait = max(1, math.ceil(window.reset_time - time()))
                    error.headers = {"Retry-After": str(wait)}
                    raise error
        except StorageError as exc:
            self._warn(exc)

    def _warn(self, exc: StorageError) -> None:
        """Say, but not with every request, that the counters are out of reach."""
        if monotonic() - self.warned > WARNING_INTERVAL:
            self.warned = monotonic()
            logger.warning("rate_limits_off", error=type(exc.storage_error).__name__)


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
