"""How a request becomes an operation's arguments: limits first, then strict JSON."""

import json
from collections.abc import AsyncGenerator, Callable, Coroutine
from decimal import Decimal
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel

from service.errors import BodyTooLarge, InvalidInput

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class StrictRequest(Request):
    """A request whose body is bounded, and is JSON as RFC 8259 has it."""

    async def stream(self) -> AsyncGenerator[bytes, None]:
        """The body, as it arrives.

        Raises:
            BodyTooLarge: it passes MAX_BODY_BYTES, or says beforehand that it will.
        """
        limit = self.app.state.settings.max_body_bytes
        announced = self.headers.get("content-length", "")
        size = int(announced) if announced.isdecimal() else 0
        if size > limit:
            raise BodyTooLarge
        size = 0
        async for chunk in super().stream():
            size += len(chunk)
            if size > limit:
                raise BodyTooLarge
            yield chunk

    async def json(self) -> Any:
        """The body's content. A number with a fraction is a Decimal, exactly as it was written.

        Raises:
            InvalidInput: it is not JSON; NaN, Infinity and nesting without end are not.
        """
        try:
            return json.loads(
                (await self.body()).decode(), parse_float=Decimal, parse_constant=_refuse_constant
            )
        except json.JSONDecodeError as exc:
            reason = f"Not valid JSON: {exc.msg} at character {exc.pos}"
        except RecursionError:
            reason = "Not valid JSON: nested too deeply"
        except ValueError:
            reason = "Not valid JSON"
        raise InvalidInput([{"pointer": "#", "detail": reason}])


def _refuse_constant(name: str) -> None:
    raise ValueError(name)


class StrictRoute(APIRoute):
    """A route that counts the request before reading it, and refuses parameters it does not know.

    It uses the hook that FastAPI documents for this: `APIRoute.get_route_handler`.
    """

    def get_route_handler(self) -> Handler:
        """FastAPI's handler behind the checks."""
        handle = super().get_route_handler()
        takes_json = self.body_field is not None
        parameters = [field.field_info.annotation for field in self.dependant.query_params]
        # A model of the query refuses what it does not know by itself.
        has_model = any(isinstance(p, type) and issubclass(p, BaseModel) for p in parameters)
        known = {field.alias for field in self.dependant.query_params}

        async def check_and_handle(request: Request) -> Response:
            if (limiter := request.app.state.rate_limiter) is not None:
                await limiter.check(request)
            if request.scope["query_string"] and not has_model:
                _refuse_unknown(request, known)
            if takes_json:
                _refuse_non_json(request)
            return await handle(StrictRequest(request.scope, request.receive))

        return check_and_handle


def _refuse_unknown(request: Request, known: set[str]) -> None:
    if unknown := request.query_params.keys() - known:
        raise InvalidInput(
            [
                {"parameter": name[:100], "detail": "There is no such parameter"}
                for name in sorted(unknown)
            ]
        )


def _refuse_non_json(request: Request) -> None:
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json" and not (
        media_type.startswith("application/") and media_type.endswith("+json")
    ):
        raise InvalidInput([{"parameter": "Content-Type", "detail": "Should be application/json"}])
