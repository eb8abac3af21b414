"""What surrounds every request: its id, its line in the log, HEAD, and errors nobody handled."""

import itertools
import re
import secrets
from collections.abc import Callable
from time import perf_counter

import structlog
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import ServiceError
from service.log import request_id
from service.problem import problem

logger = structlog.get_logger(__name__)

WELL_FORMED_ID = re.compile(rb"[A-Za-z0-9_.:=+/@-]{1,128}")
CLIENT_CLOSED_REQUEST = 499  # nginx's number for a client that left before its answer


class RequestMiddleware:
    """A pure ASGI middleware: one that builds on BaseHTTPMiddleware doubles a request's cost."""

    def __init__(self, app: ASGIApp, log_request: Callable[..., None]) -> None:
        self.app = app
        self.log_request = log_request
        # Ids that no other process makes, for far less than a random one each.
        self.ids = map(f"{secrets.token_hex(8)}-{{:x}}".format, itertools.count(1))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = perf_counter()
        method = scope["method"]
        id_ = _given_id(scope) or next(self.ids)
        request_id.set(id_)
        status, size = 0, 0

        async def send_and_note(message: Message) -> None:
            nonlocal status, size
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", id_.encode())]
            elif message["type"] == "http.response.body":
                if method == "HEAD":
                    message["body"] = b""
                size += len(message.get("body", b""))
            await send(message)

        if method == "HEAD":  # what GET answers, without the body
            scope = {**scope, "method": "GET", "is_head": True}
        try:
            await self.app(scope, receive, send_and_note)
        except ClientDisconnect:
            status = status or CLIENT_CLOSED_REQUEST
        except Exception:
            logger.exception("unhandled_error")
            if status:
                raise  # too late for an answer: the server closes the connection
            await problem(Request(scope), ServiceError())(scope, receive, send_and_note)
        finally:
            self.log_request(
                method=method,
                route=getattr(scope.get("route"), "path_format", None),
                status=status or CLIENT_CLOSED_REQUEST,
                duration_ms=round((perf_counter() - started) * 1000, 3),
                bytes=size,
                client=scope["client"][0] if scope.get("client") else None,
                key=key.name if (key := scope.get("api_key")) else None,
                request_id=id_,
            )


def _given_id(scope: Scope) -> str | None:
    for name, value in scope["headers"]:
        if name == b"x-request-id" and WELL_FORMED_ID.fullmatch(value):
            return str(value, "ascii")
    return None
