"""How connections to the database are made, without anybody waiting for one that is not to be had.

A host that is gone refuses nothing: a connection to it, or the lookup of its name, takes many
seconds to fail.
"""

import asyncio
from contextlib import suppress
from typing import Any

import asyncpg

from service.patience import in_time

PATIENCE = 160  # looks, 0.8 s, until it matters whether the database's host is there
REACH = 20  # looks, 0.1 s, for its kernel to take a connection
TIMEOUT = 5.0  # seconds for a connection of a host that is
INTERVAL = 0.5  # seconds between attempts to find one that was not; several may be under way


class Connector:
    """Connects. While the database is away, it says so at once, and looks for it by itself."""

    def __init__(self) -> None:
        self._search: asyncio.Task[None] | None = None

    async def connect(self, **options: Any) -> Any:
        """A connection of asyncpg, from the options of `asyncpg.connect`.

        Raises:
            TimeoutError: the database is not there, or takes too long.
            ConnectionError: it was not there a moment ago.
        """
        if self._search:
            raise ConnectionError("The database is away")
        connecting = asyncio.create_task(_connect(options))
        try:
            with suppress(TimeoutError):
                return await in_time(asyncio.shield(connecting), PATIENCE)
            if await _is_there(options.get("host"), options.get("port")):
                return await connecting  # it is busy
        finally:
            connecting.cancel()
        if self._search is None:
            self._search = asyncio.create_task(self._look_for_return(options))
        raise TimeoutError

    async def _look_for_return(self, options: dict[str, Any]) -> None:
        back = asyncio.Event()
        attempts: set[asyncio.Task[None]] = set()

        async def attempt() -> None:
            try:
                conn = await _connect(options)
            except OSError:
                return
            except Exception:  # an answer, though no connection: requests should learn of it
                back.set()
            else:
                back.set()
                await conn.close()

        try:
            while not back.is_set():
                task = asyncio.create_task(attempt())
                attempts.add(task)
                task.add_done_callback(attempts.discard)
                with suppress(TimeoutError):
                    await asyncio.wait_for(back.wait(), INTERVAL)
        finally:
            self._search = None
            for task in attempts:
                task.cancel()


async def _connect(options: dict[str, Any]) -> Any:
    return await asyncpg.connect(**options, timeout=TIMEOUT)  # type: ignore[no-untyped-call]


async def _is_there(host: Any, port: Any) -> bool:
    """Whether the database's host takes connections, as it does however busy it is."""
    if not isinstance(host, str) or host.startswith("/"):
        return True  # of several, or of a socket, only the driver knows
    try:
        _, writer = await in_time(asyncio.open_connection(host, port), REACH)
    except OSError:
        return False
    writer.close()
    return True
