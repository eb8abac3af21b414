"""What surrounds every request: its id, its line in the log, HEAD, and errors nobody handled."""

import itertools
import re
import secrets
from time import perf_counter

import structlog
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import ServiceError, problem
from service.log import request_id

logger = structlog.get_logger("service.access")

WELL_FORMED_ID = re.compile(r"[\w.:=+/@-]{1,128}", re.ASCII)
CLIENT_CLOSED_REQUEST = 499  # nginx's number for a client that left before its answer


class RequestMiddleware:
    """A pure ASGI middleware: one that builds on BaseHTTPMiddleware doubles a request's cost."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        # Ids that no other process makes, for far less than a random one each.
        self.ids = map(f"{secrets.token_hex(8)}-{{:x}}".format, itertools.count(1))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = perf_counter()
        method = scope["method"]
        given = Headers(scope=scope).get("x-request-id", "")
        id_ = given if WELL_FORMED_ID.fullmatch(given) else next(self.ids)
        request_id.set(id_)
        status, size = 0, 0

        async def send_and_note(message: Message) -> None:
            nonlocal status, size
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = [*message["headers"], (b"x-request-id", id_.encode())]
                message = {**message, "headers": headers}
            elif message["type"] == "http.response.body":
                if method == "HEAD":
                    message = {**message, "body": b""}
                size += len(message.get("body", b""))
            await send(message)

        if method == "HEAD":  # what GET answers, without the body
            scope = {**scope, "method": "GET"}
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
            client, route = scope.get("client"), scope.get("route")
            logger.info(
                "request",
                method=method,
                route=getattr(route, "path", None),
                status=status or CLIENT_CLOSED_REQUEST,
                duration_ms=round((perf_counter() - started) * 1000, 3),
                bytes=size,
                client=client[0] if client else None,
            )
