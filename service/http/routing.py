"""Routes: access checks first, then a strict reading of query and body, then the operation.

FastAPI solves an operation's dependencies for each request, which costs more than the rest of a
small one. So an operation whose parameters are plain (the request, path values, one query model,
one body model) is called directly, with arguments validated by the same Pydantic types. Any other,
such as one with `Depends`, takes FastAPI's path. Both are declared and documented as in FastAPI.
"""

import inspect
from collections.abc import Callable, Collection, Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, get_args, get_origin, get_type_hints
from urllib.parse import parse_qsl

from fastapi import Request, Response, params
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel, TypeAdapter, ValidationError
from sqlalchemy.exc import DBAPIError, InvalidRequestError
from starlette.convertors import StringConvertor, register_url_convertor
from starlette.types import Receive, Scope, Send

from service.access.scopes import scope_of
from service.database.faults import is_undone
from service.errors import InvalidInput, UnsupportedMediaType
from service.http.body import StrictRequest
from service.http.problem import MESSAGES
from service.state import state_of

Handler = Callable[[Request], Coroutine[Any, Any, Response]]

PATCH_TYPES = ("application/merge-patch+json", "application/json")


class IdConvertor(StringConvertor):
    """A path segment in the place of an id, as in `/items/{item_id:id}`.

    It matches malformed ids too, so that they get an error that says so, but not the names of a
    resource's other paths.
    """

    regex = "(?!(?:bulk|export)$)[^/]+"


register_url_convertor("id", IdConvertor())


class RepeatingRoute(APIRoute):
    """A route that repeats what the database has certainly not done."""

    def get_route_handler(self) -> Handler:
        """Wrap FastAPI's handler, as FastAPI documents for this hook."""
        return _again_if_undone(super().get_route_handler())


class StrictRoute(APIRoute):
    """A route that checks access before it reads the request, and refuses unknown parameters."""

    max_bytes_setting: ClassVar[str] = "max_body_bytes"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        direct = _call_directly(self.endpoint, set(self.param_convertors))
        if direct is not None and not self.dependencies:
            # Without the exit stacks that FastAPI opens for dependencies.
            handle = self._checked(direct)

            async def app(scope: Scope, receive: Receive, send: Send) -> None:
                response = await handle(StrictRequest(scope, receive, send))
                await response(scope, receive, send)

            self.app = app

    def get_route_handler(self) -> Handler:
        """Put the checks before FastAPI's handler, as FastAPI documents for this hook."""
        return self._checked(_end_dependencies(super().get_route_handler()))

    def _checked(self, handle: Handler) -> Handler:
        queries = [parameter.field_info.annotation for parameter in self.dependant.query_params]
        # A query model refuses unknown parameters by itself.
        has_model = any(isinstance(q, type) and issubclass(q, BaseModel) for q in queries)
        known = {parameter.alias for parameter in self.dependant.query_params}
        takes_json = self.body_field is not None
        scope = scope_of(self.openapi_extra)
        media_types = PATCH_TYPES if "PATCH" in (self.methods or ()) else None
        handle_again = _again_if_undone(handle)

        async def check_and_handle(request: Request) -> Response:
            state = state_of(request)
            if (gate := state.gate) is not None:
                await gate.admit(request, scope)
            if request.scope["query_string"] and not has_model:
                _refuse_unknown(request, known)
            if takes_json:
                if not isinstance(request, StrictRequest):
                    request = StrictRequest(request.scope, request.receive)
                request.max_bytes = getattr(state.settings, self.max_bytes_setting)
                request.budget = state.body_budget
                _refuse_non_json(request, media_types)
                try:
                    return await handle_again(request)
                finally:
                    state.body_budget.left += request.taken
            return await handle_again(request)

        return check_and_handle


class BulkRoute(StrictRoute):
    """A route for large bodies."""

    max_bytes_setting = "max_bulk_bytes"


def _again_if_undone(handle: Handler) -> Handler:
    """Return a handler that runs `handle` once more if nothing was done.

    That is correct for a handler of one transaction, one statement, or one coalesced call.
    """

    async def handle_again(request: Request) -> Response:
        try:
            return await handle(request)
        except (DBAPIError, InvalidRequestError) as exc:
            if not is_undone(exc):
                raise
        return await handle(request)

    return handle_again


def _end_dependencies(handle: Handler) -> Handler:
    """Give FastAPI's handler an exit stack of its own, so that it may run twice."""

    async def handle_and_end(request: Request) -> Response:
        if isinstance(request, StrictRequest):
            await request.body()  # FastAPI would make a 400 of whatever this raises
        async with AsyncExitStack() as stack:
            request.scope["fastapi_function_astack"] = stack  # in place of the route's
            return await handle(request)

    return handle_and_end


@dataclass(slots=True)
class _Arguments:
    """The source of each argument of an operation, and what validates it."""

    request: str | None = None
    path: dict[str, TypeAdapter[Any]] = field(default_factory=dict)
    query: dict[str, TypeAdapter[Any]] = field(default_factory=dict)
    body: dict[str, TypeAdapter[Any]] = field(default_factory=dict)


def _call_directly(endpoint: Callable[..., Any], in_path: set[str]) -> Handler | None:
    """Return a handler that calls `endpoint` directly; None if its parameters are not plain."""
    source = _Arguments()
    hints = get_type_hints(endpoint, include_extras=True)
    for name in inspect.signature(endpoint).parameters:
        hint = hints[name]
        base, *extras = get_args(hint) if get_origin(hint) is Annotated else (hint,)
        is_model = isinstance(base, type) and issubclass(base, BaseModel)
        if base is Request:
            source.request = name
        elif name in in_path:
            source.path[name] = TypeAdapter(hint)
        elif is_model and any(isinstance(extra, params.Query) for extra in extras):
            source.query[name] = TypeAdapter(base)
        elif is_model and not extras:
            source.body[name] = TypeAdapter(base)
        else:
            return None
    if len(source.query) > 1 or len(source.body) > 1:
        return None  # FastAPI has its own rules for those

    async def read_and_call(request: Request) -> Response:
        arguments: dict[str, Any] = {}
        if source.request:
            arguments[source.request] = request
        for name, adapter in source.path.items():
            arguments[name] = _validate(adapter, request.path_params[name], "path", name)
        for name, adapter in source.query.items():
            arguments[name] = _validate(adapter, _read_query(request), "query")
        for name, adapter in source.body.items():
            arguments[name] = _validate(adapter, await request.json(), "body")
        response: Response = await endpoint(**arguments)
        return response

    return read_and_call


def _read_query(request: Request) -> dict[str, str]:
    # Bytes that are not UTF-8 become surrogates, which none of our types accepts.
    query = request.scope["query_string"].decode(errors="surrogateescape")
    return dict(parse_qsl(query, keep_blank_values=True, errors="surrogateescape"))


def _validate(adapter: TypeAdapter[Any], value: Any, *where: str) -> Any:
    try:
        return adapter.validate_python(value)
    except ValidationError as exc:
        faults = exc.errors(include_url=False, include_input=False)
        raise RequestValidationError(
            [{**fault, "loc": (*where, *fault["loc"])} for fault in faults]
        ) from None


def _refuse_unknown(request: Request, known: set[str]) -> None:
    if unknown := request.query_params.keys() - known:
        raise InvalidInput(
            [
                {"parameter": name[:100], "detail": MESSAGES["extra_forbidden"]}
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
