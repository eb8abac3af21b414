"""Engines, pools and queries: what a request pays for its connection and its statement."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import cycle

from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from benchmarks.claims.bench import Bench, Samples
from service.crud import item as crud
from service.database.engine import create_engine, transactional
from service.database.sessions import create_sessions
from service.models import Item

SET = 32  # ids in one statement


@asynccontextmanager
async def disposed(engine: AsyncEngine) -> AsyncIterator[AsyncEngine]:
    """Yield `engine`, and close its connections afterwards."""
    try:
        yield engine
    finally:
        await engine.dispose()


async def engines(bench: Bench) -> Samples:
    """One item by `session.get` in a transaction. "Unchecked" is a pool with SQLAlchemy's defaults,
    "new connection" has no pool, and no TLS. The service's engine checks at checkout whether the
    driver has seen the connection close."""
    url = bench.settings.engine_url
    id_ = bench.ids[0]

    async def engine_per_request() -> None:
        async with disposed(create_engine(bench.settings)) as engine:
            await _get_item(engine, id_)

    async with (
        disposed(create_engine(bench.settings)) as service,
        disposed(create_async_engine(url)) as unchecked,
        disposed(create_async_engine(url, pool_pre_ping=True)) as pinged,
        disposed(create_async_engine(url, poolclass=NullPool)) as unpooled,
    ):
        return await bench.measure(
            {
                "creating an engine": bench.calls(lambda: create_engine(bench.settings)),
                "engine per request": bench.awaits(engine_per_request),
                "service's engine": bench.awaits(lambda: _get_item(service, id_)),
                "unchecked": bench.awaits(lambda: _get_item(unchecked, id_)),
                "pre-ping": bench.awaits(lambda: _get_item(pinged, id_)),
                "new connection": bench.awaits(lambda: _get_item(unpooled, id_)),
            }
        )


async def queries(bench: Bench) -> Samples:
    """Items read by id, one after the other, per item. Without AUTOCOMMIT, each read is a
    transaction."""
    ids = cycle(bench.ids)
    sets = cycle([bench.ids[start : start + SET] for start in range(0, SET * 10, SET)])

    async with disposed(create_engine(bench.settings)) as engine:
        in_transaction = transactional(engine)
        samples = await bench.measure(
            {
                "ORM": bench.awaits(lambda: _get_item(engine, next(ids))),
                "Core": bench.awaits(lambda: _select_items(in_transaction, [next(ids)])),
                "Core, AUTOCOMMIT": bench.awaits(lambda: _select_items(engine, [next(ids)])),
                "set of 32": bench.awaits(lambda: _select_items(engine, next(sets))),
            }
        )
    return samples | {"set of 32": [seconds / SET for seconds in samples["set of 32"]]}


async def _get_item(engine: AsyncEngine, id_: int) -> None:
    """Read one row by the ORM, as the usual request does."""
    async with create_sessions(engine).begin() as session:
        assert await session.get(Item, id_)


async def _select_items(engine: AsyncEngine, ids: Sequence[int]) -> None:
    """Read rows by Core, in one statement."""
    async with engine.begin() as conn:
        await crud.get_many(conn, ids)
