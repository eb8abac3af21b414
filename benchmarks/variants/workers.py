"""Gunicorn workers that are the service's but for one thing."""

import asyncio
import gc
from typing import cast

from uvicorn.protocols.http.h11_impl import H11Protocol

from service.server.protocol import JoiningTransport
from service.server.worker import Worker

# This is imported before the service's configuration sets others.
THRESHOLDS = gc.get_threshold()


class UntunedCollector(Worker):
    """Undoes what docker/gunicorn.conf.py tells the garbage collector."""

    def run(self) -> None:
        """Serve, until told to end."""
        gc.unfreeze()
        gc.set_threshold(*THRESHOLDS)
        super().run()


class AsyncioLoop(Worker):
    """The event loop of the standard library."""

    CONFIG_KWARGS = Worker.CONFIG_KWARGS | {"loop": "asyncio"}


class TwoWrites(Worker):
    """uvicorn's own protocol: the head of an answer is sent, then the body."""

    CONFIG_KWARGS = Worker.CONFIG_KWARGS | {"http": "httptools"}


class JoiningH11Protocol(H11Protocol):
    """h11's, with an answer in one write, as the service has it with httptools."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(cast(asyncio.Transport, JoiningTransport(transport, self.loop)))


class H11(Worker):
    """A parser in Python."""

    CONFIG_KWARGS = Worker.CONFIG_KWARGS | {"http": JoiningH11Protocol}
