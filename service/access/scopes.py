"""Who calls, and which scopes they have.

An operation declares its scope in the `security` of its OpenAPI description, and its route enforces
what it declares (`service/http/routing.py`).
"""

import hmac
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import Request

from service.domain.api_key import ApiKey, digest_of
from service.errors import Forbidden, Unauthorized
from service.state import state_of

SCHEME = "apiKey"  # name of the security scheme in the OpenAPI document


def identify(request: Request, keys: Sequence[ApiKey]) -> ApiKey | None:
    """Return the key that `request` carries; None if it carries none of `keys`."""
    scheme, _, presented = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer":
        return None
    digest = digest_of(presented.strip())
    found = None
    for key in keys:  # all of them, in constant time
        if hmac.compare_digest(key.digest, digest):
            found = key
    return found


def authorize(request: Request, scope: str | None) -> None:
    """Check that an identified request has `scope`; None means that no key may call.

    Raises:
        Unauthorized: the request has no key, or an unknown one.
        Forbidden: its key lacks the scope.
    """
    key: ApiKey | None = request.scope["api_key"]
    challenge = 'Bearer realm="items"'
    if key is None:
        if "authorization" in request.headers:
            challenge += ', error="invalid_token"'
        raise Unauthorized(headers={"WWW-Authenticate": challenge})
    if scope not in key.scopes:
        challenge += f', error="insufficient_scope", scope="{scope or ""}"'
        detail = (
            f"This operation requires the scope {scope}"
            if scope
            else "No scope is declared for this operation, so no key may call it"
        )
        raise Forbidden(detail, {"WWW-Authenticate": challenge})


def require_scope(request: Request, scope: str) -> None:
    """Check that a request that passed its route has one more scope.

    Raises:
        Forbidden: its key lacks the scope.
    """
    if state_of(request).settings.api_keys:
        authorize(request, scope)


def client_name(request: Request) -> str | None:
    """Return the name of the key that `request` carries; None if keys are not in use."""
    key: ApiKey | None = request.scope.get("api_key")
    return key.name if key else None


def takes_scope(scope: str) -> dict[str, Any]:
    """Return the `openapi_extra` of an operation that requires this scope."""
    return {"security": [{SCHEME: [scope]}]}


def scope_of(openapi_extra: Mapping[str, Any] | None) -> str | None:
    """Return the scope that an operation declares; None if it declares none."""
    for requirement in (openapi_extra or {}).get("security", []):
        for scope in requirement.get(SCHEME, []):
            return str(scope)
    return None
