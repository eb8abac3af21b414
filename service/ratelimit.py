"""Rate limits in slowapi's notation, counted without blocking the event loop.

slowapi's own check is synchronous and sees a request only once it has been read and found valid.
Its notation, key function and error are used here; `service/counters.py` counts.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import structlog
from fastapi import Request
from slowapi.errors import RateLimitExceeded
from slowapi.util import get_remote_address
from slowapi.wrappers import Limit, LimitGroup

from service.access import client_name
from service.counters import Counters, CountersAway, MemoryCounters, RedisCounters, Window
from service.metrics import RATE_LIMIT_FAILURES, RATE_LIMITED
from service.settings import Settings

logger = structlog.get_logger(__name__)


@dataclass(slots=True)
class State:
    """What a client has left of one limit, until it begins anew after `reset` seconds."""

    limit: Limit
    name: str
    remaining: int
    reset: int


class RateLimiter:
    """Counts the requests of each client, those that read and those that write apart."""

    def __init__(self, settings: Settings) -> None:
        self.read = _limits(settings.rate_limit_read)
        self.write = _limits(settings.rate_limit_write)
        self.counters: Counters
        if settings.redis_url:
            url = settings.redis_url.get_secret_value()
            self.counters = RedisCounters(url, settings.queue_limit)
        else:
            self.counters = MemoryCounters()
            logger.warning("rate_limits_per_worker", hint="set REDIS_URL to share the counters")

    async def check(self, request: Request) -> None:
        """Count `request`, and leave in its scope the headers that tell its client of its limits.

        Raises:
            RateLimitExceeded: its client has made too many; `headers` say when to come back.
        """
        kind = "read" if request.method == "GET" else "write"
        limits = self.read if kind == "read" else self.write
        if not limits:
            return
        client = _client(request)
        windows = [
            Window(limit.limit.key_for(kind, client), limit.limit.get_expiry()) for limit in limits
        ]
        try:
            hits = await self.counters.hit(windows)
        except CountersAway:  # better nobody is limited than nobody served
            RATE_LIMIT_FAILURES.inc()
            return
        states = [
            State(
                limit,
                f"{kind}-{window.seconds}",
                limit.limit.amount - hit.count,
                max(1, math.ceil(hit.seconds_left)),
            )
            for limit, window, hit in zip(limits, windows, hits, strict=True)
        ]
        request.scope["rate_limit"] = _headers(states)
        exceeded = [state for state in states if state.remaining < 0]
        if exceeded:
            RATE_LIMITED.labels(kind).inc()
            longest = max(exceeded, key=lambda state: state.reset)
            error = RateLimitExceeded(longest.limit)
            error.headers = {"Retry-After": str(longest.reset)}
            raise error


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
