"""How connections to the database are made, without anybody waiting for one that is not to be had.

A host that is gone refuses nothing: a connection to it, or the lookup of its name, takes many
seconds to fail.
"""

import asyncio
from contextlib import suppress
from typing import Any

import asyncpg

PATIENCE = 0.8  # seconds that a request waits for a new connection
TIMEOUT = 5.0  # seconds for one that nobody waits for
INTERVAL = 0.5  # seconds between those, of which several may be under way


class Connector:
    """Connects. While the database is away, it says so at once, and looks for it by itself."""

    def __init__(self) -> None:
        self._search: asyncio.Task[None] | None = None

    async def connect(self, *args: Any, **options: Any) -> Any:
        """A connection of asyncpg, from the arguments of `asyncpg.connect`.

        Raises:
            TimeoutError: it took too long.
            ConnectionError: it did, a moment ago, and the database has not answered since.
        """
        if self._search:
            raise ConnectionError("The database is away")
        try:
            async with asyncio.timeout(PATIENCE):
                return await asyncpg.connect(*args, **options)  # type: ignore[no-untyped-call]
        except TimeoutError:
            if self._search is None:
                self._search = asyncio.create_task(self._look_for_return(*args, **options))
            raise

    async def _look_for_return(self, *args: Any, **options: Any) -> None:
        back = asyncio.Event()
        attempts: set[asyncio.Task[None]] = set()

        async def attempt() -> None:
            try:
                conn = await asyncpg.connect(*args, **options, timeout=TIMEOUT)  # type: ignore[no-untyped-call]
            except OSError:
                return
            except Exception:  # an answer, though no connection: requests should learn of it
                back.set()
                return
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
