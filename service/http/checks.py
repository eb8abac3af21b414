"""Checks of an application's routes before it serves."""

from importlib.util import find_spec

from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from starlette.routing import WebSocketRoute

from service.access.scopes import PUBLIC, required_scopes


def check_routes(app: FastAPI, *, has_keys: bool) -> None:
    """Check that every route can be served, and is guarded where keys are in use.

    Raises:
        SystemExit: a route is neither public nor declares a scope, or is a WebSocket without the
            library that serves it.
    """
    for route in iter_route_contexts(app.routes):
        is_open = not required_scopes(getattr(route, "dependant", None))
        if has_keys and is_open and route.path not in PUBLIC:
            methods = " ".join(sorted(route.methods or ()))
            raise SystemExit(
                f"{methods} {route.path} may be called without an API key. Add "
                'dependencies=[requires("SCOPE")] to it, or its path to PUBLIC in '
                "service/access/scopes.py"
            )
        if isinstance(route.original_route, WebSocketRoute) and not _has_websockets():
            raise SystemExit(f"{route.path} is a WebSocket: add `websockets` to the dependencies")


def _has_websockets() -> bool:
    return any(find_spec(name) for name in ("websockets", "wsproto"))
