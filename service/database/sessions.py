"""Connections for operations that are not coalesced: a bounded part of the pool.

`run` and `transaction` repeat work of which the database has certainly done nothing, such as a
statement that met a connection the server had closed. They repeat nothing else of a request.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Concatenate, ParamSpec, TypeVar

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, async_sessionmaker

from service.database.engine import transactional
from service.database.faults import FAULTS, is_undone
from service.errors import QueueFull
from service.observability.metrics import TRANSACTIONS
from service.settings import Settings

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

# Maximum number of requests that wait for a connection: enough to keep all connections busy.
MAX_WAITING = 150


def create_sessions(engine: AsyncEngine) -> async_sessionmaker[AsyncSession]:
    """Return a factory of sessions in transactions; loaded objects stay readable after commit."""
    return async_sessionmaker(transactional(engine), expire_on_commit=False)


class Sessions:
    """At most two thirds of the pool, so that coalesced calls find a connection whatever locks
    these operations wait for. The number of waiting requests and their time are bounded.
    """

    def __init__(self, engine: AsyncEngine, settings: Settings) -> None:
        self._engine = engine
        self._new = create_sessions(engine)
        connections = settings.pool_size + settings.max_overflow
        self._free = asyncio.Semaphore(max(1, connections * 2 // 3))
        self._waiting = 0
        self._max_waiting = min(settings.queue_limit, MAX_WAITING)
        self._timeout = settings.pool_timeout

    async def run(
        self,
        function: Callable[Concatenate[AsyncConnection, Parameters], Awaitable[Result]],
        *args: Parameters.args,
        **kwargs: Parameters.kwargs,
    ) -> Result:
        """Call a crud function of one statement, which commits by itself.

        A row that many requests write is then locked for one statement, not for the round trips of
        a transaction.

        Raises:
            QueueFull: too many requests wait for a connection, or this one waited too long.
        """

        async def call() -> Result:
            async with self._turn(), self._engine.connect() as conn:
                return await function(conn, *args, **kwargs)

        return await repeat_if_undone(call)

    async def transaction(self, function: Callable[[AsyncSession], Awaitable[Result]]) -> Result:
        """Call `function` with a session in a transaction, and commit it.

        `function` may run twice; it should do nothing but use the session.

        Raises:
            QueueFull: too many requests wait for a connection, or this one waited too long.
        """

        async def call() -> Result:
            async with self.begin() as session:
                return await function(session)

        return await repeat_if_undone(call)

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[AsyncSession]:
        """Yield a session in a transaction, committed when the block ends without an error.

        Raises:
            QueueFull: too many requests wait for a connection, or this one waited too long.
        """
        async with self._turn(), self._new.begin() as session:
            yield session

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        with TRANSACTIONS.track_inprogress():
            await self._wait()
            try:
                yield
            finally:
                self._free.release()

    async def _wait(self) -> None:
        if self._free.locked() and self._waiting >= self._max_waiting:
            raise QueueFull
        self._waiting += 1
        try:
            async with asyncio.timeout(self._timeout):
                await self._free.acquire()
        except TimeoutError:
            raise QueueFull from None
        finally:
            self._waiting -= 1


async def repeat_if_undone(work: Callable[[], Awaitable[Result]]) -> Result:
    """Return the result of `work`, which runs once more if the database did none of it."""
    try:
        return await work()
    except FAULTS as fault:
        if not is_undone(fault):
            raise
    return await work()
