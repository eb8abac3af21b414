"""Who calls, and what they may do.

An operation names the scope it takes where OpenAPI has it, in its `security`, and what it declares
is what its route enforces (`service/routing.py`).
"""

import hmac
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import Request

from service.errors import Forbidden, Unauthorized
from service.keys import ApiKey, digest_of

SCHEME = "apiKey"  # its name in the OpenAPI document


def identify(request: Request, keys: Sequence[ApiKey]) -> ApiKey | None:
    """Which of the keys `request` carries; None if none of them."""
    scheme, _, presented = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer":
        return None
    digest = digest_of(presented.strip())
    found = None
    for key in keys:  # all of them, so that time tells nothing
        if hmac.compare_digest(key.digest, digest):
            found = key
    return found


def authorize(request: Request, scope: str | None) -> None:
    """Let a request that is identified do what takes `scope`; None is for nobody.

    Raises:
        Unauthorized: it has no key, or none that is known.
        Forbidden: its key does not have the scope.
    """
    key: ApiKey | None = request.scope["api_key"]
    challenge = 'Bearer realm="items"'
    if key is None:
        if "authorization" in request.headers:
            challenge += ', error="invalid_token"'
        raise Unauthorized(headers={"WWW-Authenticate": challenge})
    if scope not in key.scopes:
        challenge += f', error="insufficient_scope", scope="{scope or ""}"'
        detail = f"This takes a key with the scope {scope}" if scope else "This is for nobody"
        raise Forbidden(detail, {"WWW-Authenticate": challenge})


def require_scope(request: Request, scope: str) -> None:
    """Let a request that has passed its route do what takes one more scope.

    Raises:
        Forbidden: its key does not have it.
    """
    if request.app.state.settings.api_keys:
        authorize(request, scope)


def client_name(request: Request) -> str | None:
    """The name of the key that `request` carries; None where no keys are asked for."""
    key: ApiKey | None = request.scope.get("api_key")
    return key.name if key else None


def takes_scope(scope: str) -> dict[str, Any]:
    """The `openapi_extra` of an operation that takes this scope."""
    return {"security": [{SCHEME: [scope]}]}


def scope_of(openapi_extra: Mapping[str, Any] | None) -> str | None:
    """The scope that an operation says it takes."""
    for requirement in (openapi_extra or {}).get("security", []):
        for scope in requirement.get(SCHEME, []):
            return str(scope)
    return None
