"""Request bodies: bounded one by one and all together, and strict JSON."""

import asyncio
from typing import Any
from urllib.parse import parse_qsl

from fastapi import Request
from starlette.datastructures import QueryParams
from starlette.requests import ClientDisconnect

from service.errors import BodyTooLarge, InvalidInput, QueueFull
from service.http.json_body import NotJson, parse_json

SMALL = 64 * 1024  # bytes of a body or response that no budget counts: their number is bounded


class MemoryBudget:
    """The bytes that large bodies, or large responses, may take together in a worker."""

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
    turn: asyncio.Semaphore  # of large bodies that are parsed and handled
    has_turn = False
    takes_object = True  # whether JSON of another type is refused
    taken = 0  # bytes of the budget: those of a large body
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
                read += message.get("body", b"")
                if len(read) > SMALL:
                    self.budget.take(len(read) - self.taken)
                    self.taken = len(read)
                more = message.get("more_body", False)
                if len(read) > self.max_bytes:
                    raise BodyTooLarge
            self._whole = bytes(read)
        return self._whole

    def release(self) -> None:
        """Give back the memory and the turn of a large body."""
        self.budget.left += self.taken
        self.taken = 0
        if self.has_turn:
            self.turn.release()
            self.has_turn = False

    async def json(self) -> Any:
        """Read and return the JSON in the body.

        Large bodies are parsed and handled one after another, as the values of one may take twenty
        times its bytes.

        Raises:
            InvalidInput: the body is empty, not JSON, or not an object where one is expected.
        """
        if not (body := await self.body()):
            raise _invalid("This is required")
        if self.taken and not self.has_turn:
            await self.turn.acquire()
            self.has_turn = True
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
