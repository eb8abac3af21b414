"""Request bodies: bounded one by one and all together, and strict JSON."""

from typing import Any
from urllib.parse import parse_qsl

from fastapi import Request
from starlette.datastructures import QueryParams
from starlette.requests import ClientDisconnect

from service.errors import BodyTooLarge, InvalidInput, QueueFull
from service.http.json_body import NotJson, parse_json


class MemoryBudget:
    """The bytes that the bodies of all requests in flight may take together."""

    def __init__(self, size: int) -> None:
        self.left = size

    def take(self, size: int) -> None:
        """Take `size` bytes; whoever takes them adds them to `left` again.

        Raises:
            QueueFull: fewer bytes are left.
        """
        if size > self.left:
            raise QueueFull
        self.left -= size


class StrictRequest(Request):
    """A request whose body is bounded and strict JSON, and whose query is UTF-8.

    FastAPI's `max_body_size` bounds a body as well, but it is fixed when a route is declared, where
    ours are settings, and it has no bound on all bodies together.
    """

    max_bytes = 0  # 0: the operation does not read JSON, and FastAPI reads what it takes
    budget: MemoryBudget
    takes_object = True  # whether JSON of another type is refused
    taken = 0  # bytes of the budget
    _whole: bytes | None = None

    @property
    def query_params(self) -> QueryParams:
        """Return the query; bytes that are not UTF-8 become surrogates, which our types refuse."""
        if not hasattr(self, "_query_params"):
            self._query_params = QueryParams(self.query_pairs())
        return self._query_params

    def query_pairs(self) -> list[tuple[str, str]]:
        """Return the names and values of the query, as in `query_params`."""
        if not (query := self.scope["query_string"]):
            return []
        text = query.decode(errors="surrogateescape")
        return parse_qsl(text, keep_blank_values=True, errors="surrogateescape")

    async def body(self) -> bytes:
        """Read and return the body.

        Raises:
            BodyTooLarge: it is larger than `max_bytes`, or declared to be.
            QueueFull: the budget is spent.
            ClientDisconnect: the client disconnected before the end.
        """
        if not self.max_bytes:
            return await super().body()
        if self._whole is None:
            declared = self.headers.get("content-length", "")
            if declared.isdecimal() and int(declared) > self.max_bytes:
                raise BodyTooLarge
            read, more = bytearray(), True
            while more:
                message = await self.receive()
                if message["type"] == "http.disconnect":
                    raise ClientDisconnect
                part = message.get("body", b"")
                self.budget.take(len(part))
                self.taken += len(part)
                read += part
                more = message.get("more_body", False)
                if len(read) > self.max_bytes:
                    raise BodyTooLarge
            self._whole = bytes(read)
        return self._whole

    async def json(self) -> Any:
        """Read and return the JSON in the body.

        Raises:
            InvalidInput: the body is empty, not JSON, or not an object where one is expected.
        """
        if not (body := await self.body()):
            raise _invalid("This is required")
        try:
            content = parse_json(body)
        except NotJson as exc:
            raise _invalid(str(exc)) from None
        # Pydantic, as FastAPI calls it, would accept any object with attributes, such as a Decimal.
        if self.takes_object and not isinstance(content, dict):
            raise _invalid("Input should be an object")
        return content


def _invalid(detail: str) -> InvalidInput:
    return InvalidInput([{"pointer": "#", "detail": detail}])
