"""Around every request: its id, deadline, log line and metrics, HEAD, and unhandled errors."""

import asyncio
import itertools
import re
import secrets
from collections.abc import Callable, Coroutine
from time import perf_counter
from typing import Any

import structlog
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import TimedOut, Unavailable
from service.http.body import SMALL
from service.http.deadline import Deadline, break_off, until_read
from service.http.problem import problem
from service.observability.logs import request_id
from service.observability.metrics import RequestStatistics

logger = structlog.get_logger(__name__)

WELL_FORMED_ID = re.compile(rb"[A-Za-z0-9_.:=+/@-]{1,128}")
SECURITY_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"content-security-policy", b"frame-ancestors 'none'"),
    (b"referrer-policy", b"no-referrer"),
)
CLIENT_CLOSED_REQUEST = 499  # a common status for a client that disconnected before the response


class RequestMiddleware:
    """A pure ASGI middleware: BaseHTTPMiddleware would double the cost of a request.

    Args:
        log_request: logs a finished request, from its fields.
        timeout: seconds that a request may take.
        statistics: counts the requests; None if metrics are off.
    """

    def __init__(
        self,
        app: ASGIApp,
        log_request: Callable[..., None],
        timeout: float,
        statistics: RequestStatistics | None = None,
    ) -> None:
        self.app = app
        self.log_request = log_request
        self.timeout = timeout
        self.statistics = statistics
        # Unique among processes, and less expensive than a random id for each request.
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
        is_broken = False  # the response ended before its last byte

        async def send_and_note(message: Message) -> None:
            nonlocal status, size
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [
                    *message["headers"],
                    *scope.get("rate_limit", ()),
                    (b"x-request-id", id_.encode()),
                    *SECURITY_HEADERS,
                ]
            elif message["type"] == "http.response.body":
                if method == "HEAD":
                    message["body"] = b""
                size += len(message.get("body", b""))
            await send(message)

        def give_up() -> Coroutine[Any, Any, None] | None:
            nonlocal is_broken
            if status:  # the client does not read the response
                is_broken = True
                break_off(scope)
                return None
            return problem(Request(scope), TimedOut())(scope, receive, send_and_note)

        if method == "HEAD":  # the response to GET, without the body
            scope = {**scope, "method": "GET", "is_head": True}
        if self.statistics:
            self.statistics.in_progress += 1
        deadline = scope["deadline"] = Deadline(self.timeout, give_up)
        try:
            await self.app(scope, receive, send_and_note)
            if size > SMALL:
                await until_read(scope)
        except ClientDisconnect:
            is_broken = bool(status)
            status = status or CLIENT_CLOSED_REQUEST
        except asyncio.CancelledError:
            if deadline.answered:
                await deadline.answered
            elif not deadline.passed:
                if not status:  # the worker ends before the request
                    await problem(Request(scope), Unavailable())(scope, receive, send_and_note)
                raise
        except Exception as exc:
            if not deadline.passed:
                logger.exception("unhandled_error")
                if status:
                    raise  # too late for a response: the server closes the connection
                handlers = scope["app"].exception_handlers
                handler = handlers.get(500) or handlers[Exception]
                response = await handler(Request(scope), exc)
                await response(scope, receive, send_and_note)
        finally:
            deadline.lift()
            del scope["deadline"]  # breaks a reference cycle
            seconds = perf_counter() - started
            route = getattr(scope.get("route"), "path_format", None)
            status = status or CLIENT_CLOSED_REQUEST
            if self.statistics:
                self.statistics.in_progress -= 1
                self.statistics.observe(method, route, status, seconds)
            self.log_request(
                method=method,
                route=route,
                status=status,
                duration_ms=round(seconds * 1000, 3),
                bytes=size,
                client=scope["client"][0] if scope.get("client") else None,
                key=key.name if (key := scope.get("api_key")) else None,
                request_id=id_,
                **({"broken_off": True} if is_broken else {}),
            )


def _given_id(scope: Scope) -> str | None:
    for name, value in scope["headers"]:
        if name == b"x-request-id" and WELL_FORMED_ID.fullmatch(value):
            return str(value, "ascii")
    return None
