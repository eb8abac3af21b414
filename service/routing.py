"""How a request becomes an operation's arguments: limits first, then strict JSON.

FastAPI solves an operation's dependencies anew with each request, which costs more than the rest
of a simple one. So an operation whose parameters are plain (the request, values from the path, a
model of the query, a model of the body) is called directly, with arguments that the same Pydantic
types validated. Any other, one with `Depends` say, goes FastAPI's way. Either is declared, and
documented, as FastAPI has it.
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
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from service.access import scope_of
from service.database import is_undone
from service.errors import BodyTooLarge, InvalidInput, UnsupportedMediaType
from service.problem import MESSAGES
from service.strict_json import NotJson, parse_json

Handler = Callable[[Request], Coroutine[Any, Any, Response]]

PATCH_TYPES = ("application/merge-patch+json", "application/json")


class IdConvertor(StringConvertor):
    """What stands in the place of an id, as in `/items/{item_id:id}`: anything, so that a wrong one
    gets an error that says so, except the names that a resource has paths of its own for."""

    regex = "(?!(?:bulk|export)$)[^/]+"


register_url_convertor("id", IdConvertor())


class RepeatingRoute(APIRoute):
    """A route that does again what the database has certainly not done."""

    def get_route_handler(self) -> Handler:
        """FastAPI's handler, run again if need be: the hook that it documents for this."""
        return _again_if_undone(super().get_route_handler())


class StrictRoute(APIRoute):
    """A route that asks who calls and counts requests before it reads them, and is strict."""

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
        """FastAPI's handler, behind the checks: the hook that it documents for this."""
        return self._checked(_end_dependencies(super().get_route_handler()))

    def _checked(self, handle: Handler) -> Handler:
        queries = [parameter.field_info.annotation for parameter in self.dependant.query_params]
        # A model of the query knows by itself what it does not know.
        has_model = any(isinstance(q, type) and issubclass(q, BaseModel) for q in queries)
        known = {parameter.alias for parameter in self.dependant.query_params}
        takes_json = self.body_field is not None
        scope = scope_of(self.openapi_extra)
        media_types = PATCH_TYPES if "PATCH" in (self.methods or ()) else None
        handle_again = _again_if_undone(handle)

        async def check_and_handle(request: Request) -> Response:
            state = request.app.state
            if (gate := state.gate) is not None:
                await gate.admit(request, scope)
            if request.scope["query_string"] and not has_model:
                _refuse_unknown(request, known)
            if takes_json:
                if not isinstance(request, StrictRequest):
                    request = StrictRequest(request.scope, request.receive)
                request.max_bytes = getattr(state.settings, self.max_bytes_setting)
                _refuse_non_json(request, media_types)
                try:
                    return await handle_again(request)
                finally:
                    state.room.left += request.taken
            return await handle_again(request)

        return check_and_handle


class BulkRoute(StrictRoute):
    """A route of large bodies."""

    max_bytes_setting = "max_bulk_bytes"


class StrictRequest(Request):
    """A request whose body is bounded, and is JSON as RFC 8259 has it."""

    max_bytes: int
    taken = 0  # of the room that the worker has for bodies
    _read: bytes | None = None

    async def body(self) -> bytes:
        """The body.

        Raises:
            BodyTooLarge: it passes `max_bytes`, or says beforehand that it will.
            QueueFull: there is no room for it.
            ClientDisconnect: its client left before it was whole.
        """
        if self._read is None:
            announced = self.headers.get("content-length", "")
            if announced.isdecimal() and int(announced) > self.max_bytes:
                raise BodyTooLarge
            read, more = bytearray(), True
            while more:
                message = await self.receive()
                if message["type"] == "http.disconnect":
                    raise ClientDisconnect
                part = message.get("body", b"")
                self.app.state.room.take(len(part))
                self.taken += len(part)
                read += part
                more = message.get("more_body", False)
                if len(read) > self.max_bytes:
                    raise BodyTooLarge
            self._read = bytes(read)
        return self._read

    async def json(self) -> Any:
        """The body's content. A number with a fraction is a Decimal, exactly as it was written.

        Raises:
            InvalidInput: it is not JSON; NaN, Infinity and nesting without end are not.
        """
        body = await self.body()
        if not body:
            raise InvalidInput([{"pointer": "#", "detail": MESSAGES["missing"]}])
        try:
            content = parse_json(body)
        except NotJson as exc:
            raise InvalidInput([{"pointer": "#", "detail": str(exc)}]) from None
        # Pydantic, as FastAPI calls it, takes any object with attributes, a Decimal say.
        if not isinstance(content, dict):
            raise InvalidInput([{"pointer": "#", "detail": MESSAGES["model_type"]}])
        return content


def _again_if_undone(handle: Handler) -> Handler:
    """`handle`, run once more where nothing was done: a connection that waited had ended, say.

    That is right for a handler of one transaction, one statement, or one coalesced call.
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
    """FastAPI's handler, which ends what it depends on when it ends, and so may be run again."""

    async def handle_and_end(request: Request) -> Response:
        if isinstance(request, StrictRequest):
            await request.body()  # FastAPI would make a 400 of whatever this raises
        async with AsyncExitStack() as stack:
            request.scope["fastapi_function_astack"] = stack  # in place of the route's
            return await handle(request)

    return handle_and_end


@dataclass(slots=True)
class _Arguments:
    """Where an operation's arguments come from, by their names, and what validates them."""

    request: str | None = None
    path: dict[str, TypeAdapter[Any]] = field(default_factory=dict)
    query: dict[str, TypeAdapter[Any]] = field(default_factory=dict)
    body: dict[str, TypeAdapter[Any]] = field(default_factory=dict)


def _call_directly(endpoint: Callable[..., Any], in_path: set[str]) -> Handler | None:
    """What calls `endpoint` with arguments read from a request; None if they are not plain."""
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
        return None  # FastAPI has rules for those

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
    # What is not UTF-8 becomes surrogates, which no type of ours lets pass.
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
