"""Routes that check access first and read strictly, declared and documented as in FastAPI."""

from collections.abc import Callable, Collection, Coroutine
from typing import Any, ClassVar

from fastapi import FastAPI, Request, Response, params
from fastapi.routing import APIRoute, RouteContext, iter_route_contexts
from starlette.convertors import StringConvertor, register_url_convertor

from service.access.limits import count, count_request, limiter
from service.access.scopes import api_key, authorize, dependencies_of, required_scopes
from service.errors import InvalidInput, UnsupportedMediaType
from service.http.body import StrictRequest
from service.http.direct import compile_operation, is_model
from service.http.problem import MESSAGES, printable
from service.state import state_of

Handler = Callable[[Any], Coroutine[Any, Any, Response]]

MODEL = "*"  # among the parameters of a query: a model, which refuses unknown ones by itself
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

    def __init__(self, path: str, endpoint: Any, **options: Any) -> None:
        self.parameters: set[str] = set()  # of the query, wherever the route is included
        super().__init__(path, endpoint, **options)

    def get_route_handler(self) -> Handler:
        """Put the checks before FastAPI's handler, as FastAPI documents for this hook."""
        self.parameters |= _query_parameters(self.dependant)
        return self._checked(_read_first(super().get_route_handler()), self)

    def direct_handler(self, context: RouteContext) -> Handler | None:
        """Return a handler without FastAPI's dependency solver; None if that has to serve it.

        Args:
            context: this route, where it is included.
        """
        handle = compile_operation(context, checked=(api_key, count_request))
        return None if handle is None else self._checked(handle, context)

    def _checked(self, handle: Handler, context: Any) -> Handler:
        scopes = required_scopes(context.dependant)
        limits = limiter.declared(self.endpoint)
        body = context.body_field.field_info if context.body_field else None
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
            if request.scope["query_string"] and MODEL not in self.parameters:
                _refuse_unknown(request, self.parameters)
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


def learn_parameters(app: FastAPI) -> None:
    """Tell each route the query parameters that only dependencies of its inclusion take."""
    for context in iter_route_contexts(app.routes):
        if isinstance(context.original_route, StrictRoute):
            context.original_route.parameters |= _query_parameters(context.dependant)


def _read_first(handle: Handler) -> Handler:
    async def read_and_handle(request: Request) -> Response:
        if isinstance(request, StrictRequest) and request.max_bytes:
            await request.body()  # FastAPI would make a 400 of whatever this raises
        return await handle(request)

    return read_and_handle


def _query_parameters(dependant: Any) -> set[str]:
    """Return the query parameters of an operation and its dependencies, and `MODEL` for a model."""
    fields = [
        field for part in (*dependencies_of(dependant), dependant) for field in part.query_params
    ]
    models = {MODEL for field in fields if is_model(field.field_info.annotation)}
    return models | {field.alias for field in fields}


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
