"""The checks before a body is read: who calls, how often, and whether the key permits it."""

from collections.abc import Sequence

from fastapi import Request

from service.access.limits import RateLimiter, create_rate_limiter
from service.access.scopes import authorize, identify
from service.domain.api_key import ApiKey
from service.settings import Settings


class Gate:
    """Counts each request, and admits those whose key has the scope of the operation."""

    def __init__(self, keys: Sequence[ApiKey], limiter: RateLimiter | None) -> None:
        self._keys = keys
        self._limiter = limiter

    async def admit(self, request: Request, scope: str | None) -> None:
        """Admit a request for an operation that requires `scope`.

        Raises:
            RateLimitExceeded: its client made too many requests, refused ones included.
            Unauthorized, Forbidden: keys are in use, and the request has none with the scope.
        """
        if self._keys:
            request.scope["api_key"] = identify(request, self._keys)
        if self._limiter is not None:
            await self._limiter.check(request)
        if self._keys:
            authorize(request, scope)


def create_gate(settings: Settings) -> Gate | None:
    """Return the gate; None if neither keys nor limits are set, so that it costs nothing."""
    limiter = create_rate_limiter(settings)
    if settings.api_keys or limiter:
        return Gate(settings.api_keys, limiter)
    return None
