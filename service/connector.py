"""How connections to the database are made, without anybody waiting for one that is not to be had.

A host that is gone refuses nothing: a connection to it, or the lookup of its name, takes many
seconds to fail.
"""

import asyncio
import socket
from contextlib import suppress
from typing import Any

import asyncpg

from service.patience import in_time

Lookup = asyncio.Future[list[Any]]

PATIENCE = 100  # looks, 0.5 s, until it matters whether the database's host is there
REACH = 20  # looks, 0.1 s, for its kernel to take a connection
TIMEOUT = 5.0  # seconds for a connection of a host that is
INTERVAL = 1.0  # seconds between attempts to find one that was not; several may be under way
# Seconds, seconds, times: a connection that waits in the pool ends 8 s after a host that went
# without a word, before the first request has found out. Else each would cost one its deadline.
KEEP_ALIVE = {"TCP_KEEPIDLE": 4, "TCP_KEEPINTVL": 1, "TCP_KEEPCNT": 4}


class Connector:
    """Connects. While the database is away, it says so at once, and looks for it by itself."""

    def __init__(self) -> None:
        self._lookup: Lookup | None = None  # one for all that connect: each takes a thread
        self._search: asyncio.Task[None] | None = None

    async def connect(self, **options: Any) -> Any:
        """A connection of asyncpg, from the options of `asyncpg.connect`.

        Raises:
            TimeoutError: the database is not there, or takes too long.
            ConnectionError: it was not there a moment ago.
        """
        if self._search:
            raise ConnectionError("The database is away")
        if self._lookup is None or self._lookup.done():
            self._lookup = _look_up(options)
        lookup = self._lookup
        connecting = asyncio.create_task(_connect(options, lookup))
        try:
            with suppress(TimeoutError):
                return await in_time(asyncio.shield(connecting), PATIENCE)
            if await _is_there(lookup):
                return await connecting  # it is busy
            if self._search is None:
                self._search = asyncio.create_task(self._look_for_return(options))
            raise TimeoutError
        except BaseException:
            connecting.cancel()
            connecting.add_done_callback(_end_unwanted)  # it may have come nevertheless
            raise

    async def _look_for_return(self, options: dict[str, Any]) -> None:
        back = asyncio.Event()
        attempts: set[asyncio.Task[None]] = set()

        async def attempt() -> None:
            try:
                conn = await _connect(options, _look_up(options))
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


def _look_up(options: dict[str, Any]) -> Lookup:
    """Have the host's name looked up, which goes on in a thread when all have given up."""
    host, port = options.get("host"), options.get("port")
    if not isinstance(host, str) or host.startswith("/"):  # several, or a socket
        return asyncio.ensure_future(asyncio.sleep(0, []))
    lookup = asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    looking = asyncio.ensure_future(lookup)
    looking.add_done_callback(lambda done: done.cancelled() or done.exception())  # nobody else may
    return looking


async def _connect(options: dict[str, Any], lookup: Lookup) -> Any:
    await asyncio.wait([lookup])
    if error := lookup.exception():
        raise error
    conn = await asyncpg.connect(**options, timeout=TIMEOUT)
    with suppress(OSError, ValueError):  # it has ended already: the pool finds that out
        _keep_alive(conn._transport.get_extra_info("socket"))
    return conn


def _keep_alive(sock: Any) -> None:
    if sock.family in (socket.AF_INET, socket.AF_INET6):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in KEEP_ALIVE.items():
            if hasattr(socket, name):  # Linux's names
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _end_unwanted(connecting: asyncio.Task[Any]) -> None:
    if not connecting.cancelled() and not connecting.exception():
        connecting.result().terminate()


async def _is_there(lookup: Lookup) -> bool:
    """Whether the database's host takes connections, as it does however busy it is."""
    if not lookup.done():
        return False
    if not (addresses := lookup.result()):
        return True  # of several hosts, or a socket, only the driver knows
    try:
        _, writer = await in_time(asyncio.open_connection(*addresses[0][4][:2]), REACH)
    except OSError:
        return False
    writer.close()
    return True
