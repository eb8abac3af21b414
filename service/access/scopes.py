"""Who calls, and which scopes they have.

An operation declares its scope as FastAPI documents: `dependencies=[requires("items:read")]`, on
the operation, its router, or where the router is included. With keys in use, the service does not
start while an operation has no such declaration and is not in `PUBLIC`.
"""

import hmac
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from fastapi import Request, Security, WebSocketException, status
from fastapi.openapi.models import HTTPBearer
from fastapi.security import SecurityScopes
from fastapi.security.base import SecurityBase
from starlette.requests import HTTPConnection

from service.domain.api_key import ApiKey, digest_of
from service.errors import Forbidden, Unauthorized
from service.state import state_of

# Finds who sends a request; None for a caller that is not known.
Identify = Callable[[HTTPConnection], ApiKey | None]

# Paths that everybody may call, also when keys are in use.
PUBLIC = frozenset(
    {
        *("/health", "/health/live", "/health/ready", "/metrics"),
        *("/docs", "/docs/oauth2-redirect", "/openapi.json", "/static-offline-docs"),
    }
)


class ApiKeyScheme(SecurityBase):
    """The security scheme, and the dependency that enforces it."""

    def __init__(self) -> None:
        self.model = HTTPBearer(description="An API key")
        self.scheme_name = "apiKey"

    async def __call__(self, connection: HTTPConnection, scopes: SecurityScopes) -> ApiKey | None:
        """Return the caller's key; None if keys are not in use.

        Raises:
            Unauthorized: keys are in use, and the request has none, or an unknown one.
            Forbidden: the key lacks one of the scopes.
            WebSocketException: either, for a WebSocket, which has no error response.
        """
        try:
            return authorize(connection, scopes.scopes)
        except (Unauthorized, Forbidden) as exc:
            if connection.scope["type"] == "websocket":
                raise WebSocketException(status.WS_1008_POLICY_VIOLATION, exc.detail) from None
            raise


api_key = ApiKeyScheme()


def requires(scope: str) -> Any:
    """Return the dependency of an operation that requires this scope."""
    return Security(api_key, scopes=[scope])


def require_scope(request: Request, scope: str) -> None:
    """Check that a request has one more scope than its operation declares.

    Raises:
        Unauthorized, Forbidden: as for the operation itself.
    """
    authorize(request, [scope])


def authorize(connection: HTTPConnection, scopes: Sequence[str]) -> ApiKey | None:
    """Return the caller's key if it has all `scopes`; None if keys are not in use.

    Raises:
        Unauthorized: keys are in use, and the request has none, or an unknown one.
        Forbidden: the key lacks a scope.
    """
    if state_of(connection).identify is None:
        return None
    key = caller(connection)
    challenge = 'Bearer realm="items"'
    if key is None:
        if "authorization" in connection.headers:
            challenge += ', error="invalid_token"'
        raise Unauthorized(headers={"WWW-Authenticate": challenge})
    if missing := [scope for scope in scopes if scope not in key.scopes]:
        challenge += f', error="insufficient_scope", scope="{" ".join(missing)}"'
        raise Forbidden(
            f"This operation requires the scope {' '.join(missing)}",
            {"WWW-Authenticate": challenge},
        )
    return key


def caller(connection: HTTPConnection) -> ApiKey | None:
    """Return the key that a request carries; None if it carries none that is known."""
    if "api_key" not in connection.scope:
        identify = state_of(connection).identify
        connection.scope["api_key"] = identify(connection) if identify else None
    key: ApiKey | None = connection.scope["api_key"]
    return key


def client_name(connection: HTTPConnection) -> str | None:
    """Return the name of the caller's key; None if it has none."""
    key = caller(connection)
    return key.name if key else None


def identify_by(keys: Sequence[ApiKey]) -> Identify | None:
    """Return a function that finds the key of a request; None without keys."""

    def identify(connection: HTTPConnection) -> ApiKey | None:
        scheme, _, presented = connection.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            return None
        digest = digest_of(presented.strip())
        found = None
        for key in keys:  # all of them, in constant time
            if hmac.compare_digest(key.digest, digest):
                found = key
        return found

    return identify if keys else None


def required_scopes(dependant: Any) -> list[str] | None:
    """Return the scopes that an operation declares; None if it declares none.

    Args:
        dependant: FastAPI's description of what the operation depends on; None for other routes.
    """
    if dependant is None:
        return None
    scopes = None
    for dependency in dependencies_of(dependant):
        if dependency.call is api_key:
            # In the order of FastAPI's SecurityScopes.
            declared = [
                *(dependency.parent_oauth_scopes or ()),
                *(dependency.own_oauth_scopes or ()),
            ]
            scopes = [*(scopes or ()), *declared]
    return scopes


def dependencies_of(dependant: Any) -> Iterator[Any]:
    """Yield each dependency, after those that it depends on itself."""
    for dependency in dependant.dependencies:
        yield from dependencies_of(dependency)
        yield dependency
