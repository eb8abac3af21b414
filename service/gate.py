"""What a request passes before its body is read: who calls, how often, and whether it may."""

from collections.abc import Sequence

from fastapi import Request

from service.access import authorize, identify
from service.keys import ApiKey
from service.ratelimit import RateLimiter, create_rate_limiter
from service.settings import Settings


class Gate:
    """Counts each request, and lets in those whose key may do what they ask for."""

    def __init__(self, keys: Sequence[ApiKey], limiter: RateLimiter | None) -> None:
        self._keys = keys
        self._limiter = limiter

    async def admit(self, request: Request, scope: str | None) -> None:
        """Let in a request for what takes `scope`.

        Raises:
            RateLimitExceeded: its client has made too many; those without a good key count, too.
            Unauthorized, Forbidden: keys are in use, and it has none that may.
        """
        if self._keys:
            request.scope["api_key"] = identify(request, self._keys)
        if self._limiter is not None:
            await self._limiter.check(request)
        if self._keys:
            authorize(request, scope)


def create_gate(settings: Settings) -> Gate | None:
    """The gate; None where all may pass, so that there is nothing to pay for."""
    limiter = create_rate_limiter(settings)
    if settings.api_keys or limiter:
        return Gate(settings.api_keys, limiter)
    return None
