"""Allowed host names: a defence against DNS rebinding."""

import re
from collections.abc import Sequence

from fastapi import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from service.errors import BadRequest
from service.http.problem import problem

HOST = re.compile(r"([a-z0-9_.-]+|\[[0-9a-f:.]+\])(:[0-9]*)?")  # a name or address, and a port


class AllowedHosts:
    """Refuses requests whose Host is not in `hosts`.

    Health and metrics stay open, as orchestrators call them by address.

    Args:
        hosts: names without port, in lower case; `*.example.com` matches every name below it.
    """

    def __init__(self, app: ASGIApp, hosts: Sequence[str]) -> None:
        self.app = app
        self.names = frozenset(hosts)
        self.endings = tuple(host[1:] for host in hosts if host.startswith("*."))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not self._is_allowed(scope):
            refusal = problem(Request(scope), BadRequest("The Host header is not allowed"))
            await refusal(scope, receive, send)
            return
        await self.app(scope, receive, send)

    def _is_allowed(self, scope: Scope) -> bool:
        if "*" in self.names or scope["path"].startswith(("/health", "/metrics")):
            return True
        names = [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]
        if len(names) != 1:
            return False
        host = HOST.fullmatch(names[0].lower())
        return host is not None and (host[1] in self.names or host[1].endswith(self.endings))
