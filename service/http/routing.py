"""Routes that check first, read strictly, and call plain operations directly.

They are declared and documented as in FastAPI. Where an operation takes what `http/direct.py` does
not compile, or a test overrides a dependency, FastAPI's own path serves it with equal results.
"""

from collections.abc import Callable, Collection, Coroutine
from typing import Any, ClassVar

from fastapi import APIRouter, FastAPI, Request, Response, params
from fastapi.routing import APIRoute
from starlette.convertors import StringConvertor, register_url_convertor
from starlette.routing import Match
from starlette.types import Receive, Scope, Send

from service.access.limits import count, count_request, limiter
from service.access.scopes import api_key, authorize, dependencies_of, required_scopes
from service.errors import InvalidInput, UnsupportedMediaType
from service.http.body import StrictRequest
from service.http.direct import compile_operation, is_model
from service.http.problem import MESSAGES, printable
from service.state import state_of

Handler = Callable[[Any], Coroutine[Any, Any, Response]]

PATCH_TYPES = ("application/merge-patch+json", "application/json")


class IdConvertor(StringConvertor):
    """A path segment in the place of an id, as in `/items/{item_id:id}`.

    It matches malformed ids too, so that they get an error that says so, but not the names of a
    resource's other paths.
    """

    regex = "(?!(?:bulk|export)$)[^/]+"


register_url_convertor("id", IdConvertor())


class StrictRoute(APIRoute):
    """A route that checks access before it reads the body, and refuses unknown parameters."""

    max_bytes_setting: ClassVar[str] = "max_body_bytes"
    _is_bound = False  # to an application, so that `path` is the whole path

    def __init__(self, path: str, endpoint: Any, **options: Any) -> None:
        super().__init__(path, endpoint, **options)
        self._options = options
        direct = compile_operation(self, checked=(api_key, count_request))
        if direct is not None:
            # Without the exit stacks that FastAPI opens for dependencies.
            handle, solve = self._checked(direct), self.app

            async def app(scope: Scope, receive: Receive, send: Send) -> None:
                if scope["app"].dependency_overrides:
                    await solve(scope, receive, send)
                    return
                response = await handle(StrictRequest(scope, receive, send))
                await response(scope, receive, send)

            self.app = app

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Compare a path without parameters first: most requests are for another one."""
        if (
            self._is_bound
            and not self.param_convertors
            and scope["path"] != self.path
            and not scope.get("root_path")
        ):
            return Match.NONE, {}
        return super().matches(scope)

    def get_route_handler(self) -> Handler:
        """Put the checks before FastAPI's handler, as FastAPI documents for this hook."""
        return self._checked(_read_first(super().get_route_handler()))

    def bound_to(self, app: FastAPI) -> "StrictRoute":
        """Return this route as one of `app`, with the dependencies of all its operations."""
        dependencies = [*app.router.dependencies, *self.dependencies]
        options = self._options | {
            "dependencies": dependencies,
            "dependency_overrides_provider": app,
        }
        route = type(self)(self.path, self.endpoint, **options)
        route._is_bound = True
        return route

    def _checked(self, handle: Handler) -> Handler:
        scopes = required_scopes(self.dependant)
        limits = limiter.declared(self.endpoint)
        known, has_model = _query_of(self.dependant)
        body = self.body_field.field_info if self.body_field else None
        takes_json = body is not None and not isinstance(body, params.Form)
        takes_object = is_model(body.annotation) if body is not None else False
        media_types = PATCH_TYPES if "PATCH" in (self.methods or ()) else None

        async def check_and_handle(request: Request) -> Response:
            state = state_of(request)
            if not request.scope["app"].dependency_overrides:
                for limit in limits:
                    if limit.value(request):
                        await count(request, limits)
                        break
                if scopes is not None and state.identify is not None:
                    authorize(request, scopes)
            if request.scope["query_string"] and not has_model:
                _refuse_unknown(request, known)
            if not isinstance(request, StrictRequest):
                request = StrictRequest(request.scope, request.receive)
            if not takes_json:
                return await handle(request)
            request.max_bytes = getattr(state.settings, self.max_bytes_setting)
            request.budget, request.turn = state.body_budget, state.large_bodies
            request.takes_object = takes_object
            _refuse_non_json(request, media_types)
            try:
                return await handle(request)
            finally:
                request.release()

        return check_and_handle


class BulkRoute(StrictRoute):
    """A route for large bodies."""

    max_bytes_setting = "max_bulk_bytes"


def include(app: FastAPI, *routers: APIRouter) -> None:
    """Add the operations of routers of StrictRoutes to `app`, before its other routes.

    In place of `app.include_router`, which works too, but matches each request twice and serves all
    operations by FastAPI's own path. The most used router comes first: each route that does not
    match costs time.
    """
    routes = [route for router in routers for route in router.routes]
    app.router.routes[:0] = [
        route.bound_to(app) for route in routes if isinstance(route, StrictRoute)
    ]


def _read_first(handle: Handler) -> Handler:
    async def read_and_handle(request: Request) -> Response:
        if isinstance(request, StrictRequest) and request.max_bytes:
            await request.body()  # FastAPI would make a 400 of whatever this raises
        return await handle(request)

    return read_and_handle


def _query_of(dependant: Any) -> tuple[set[str], bool]:
    """Return the query parameters of an operation and its dependencies, and whether a model, which
    refuses unknown parameters by itself, is among them."""
    names, has_model = set(), False
    for part in (*dependencies_of(dependant), dependant):
        for parameter in part.query_params:
            has_model = has_model or is_model(parameter.field_info.annotation)
            names.add(parameter.alias)
    return names, has_model


def _refuse_unknown(request: Request, known: set[str]) -> None:
    if unknown := request.query_params.keys() - known:
        raise InvalidInput(
            [
                {"parameter": printable(name), "detail": MESSAGES["extra_forbidden"]}
                for name in sorted(unknown)
            ]
        )


def _refuse_non_json(request: Request, media_types: Collection[str] | None) -> None:
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type and media_types is not None and media_type not in media_types:
        raise UnsupportedMediaType(headers={"Accept-Patch": ", ".join(media_types)})
    if media_type != "application/json" and not (
        media_type.startswith("application/") and media_type.endswith("+json")
    ):
        raise InvalidInput([{"parameter": "Content-Type", "detail": "Should be application/json"}])
