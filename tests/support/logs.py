"""The log of an application that runs in this process."""

import io
import json
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, redirect_stderr
from typing import Any

import httpx2 as httpx

from service.main import create_app
from service.settings import Settings
from tests.support.apps import serving
from tests.support.waiting import until


class Log:
    """The text that was written to stderr."""

    def __init__(self) -> None:
        self.written = io.BytesIO()
        self.stderr = io.TextIOWrapper(self.written, write_through=True)

    def text(self) -> str:
        """Return the whole text."""
        return self.written.getvalue().decode()

    def lines(self) -> list[dict[str, Any]]:
        """Return every line, read as JSON."""
        return [json.loads(line) for line in self.text().splitlines()]

    def events(self, event: str) -> list[dict[str, Any]]:
        """Return the lines of one event."""
        return [line for line in self.lines() if line["event"] == event]

    async def line_of(self, answer: httpx.Response) -> dict[str, Any]:
        """Wait for the log line of the request that got `answer`, and return it."""
        id_ = answer.headers["x-request-id"]

        def lines() -> list[dict[str, Any]]:
            return [line for line in self.events("request") if line["request_id"] == id_]

        await until(lines)
        (line,) = lines()
        return line


@contextmanager
def reading_log() -> Iterator[Log]:
    """Collect what is written to stderr, also by applications that are created meanwhile."""
    log = Log()
    client = logging.getLogger(httpx.__name__)  # of the tests, which logs each URL
    level = client.level
    client.setLevel(logging.WARNING)
    try:
        with redirect_stderr(log.stderr):
            yield log
    finally:
        client.setLevel(level)


@asynccontextmanager
async def logged_client(settings: Settings) -> AsyncIterator[tuple[httpx.AsyncClient, Log]]:
    """Run the application; yield an HTTP client of it and its log."""
    with reading_log() as log:
        async with serving(create_app(settings)) as client:
            yield client, log
