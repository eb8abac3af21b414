"""Gunicorn workers that differ from the service's worker in one thing."""

import asyncio
import gc
from typing import cast

from uvicorn.protocols.http.h11_impl import H11Protocol

from service.server.protocol import JoiningTransport
from service.server.worker import Worker

# Python's defaults, as the service's worker has not changed them yet.
THRESHOLDS = gc.get_threshold()


class DefaultCollector(Worker):
    """Uses Python's defaults for the garbage collector."""

    def load_wsgi(self) -> None:
        """Load the application, and undo what the service's worker does then."""
        super().load_wsgi()
        gc.unfreeze()
        gc.set_threshold(*THRESHOLDS)


class AsyncioLoop(Worker):
    """Runs the event loop of the standard library."""

    CONFIG_KWARGS = Worker.CONFIG_KWARGS | {"loop": "asyncio"}


class TwoWrites(Worker):
    """Has uvicorn's protocol, which writes head and body of a response separately."""

    CONFIG_KWARGS = Worker.CONFIG_KWARGS | {"http": "httptools"}


class JoiningH11Protocol(H11Protocol):
    """Writes head and body together, as the service's protocol does."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(cast(asyncio.Transport, JoiningTransport(transport, self.loop)))


class H11(Worker):
    """Parses with h11, in Python."""

    CONFIG_KWARGS = Worker.CONFIG_KWARGS | {"http": JoiningH11Protocol}
