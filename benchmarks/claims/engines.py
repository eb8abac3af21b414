"""Engines, pools and pings: what stands between a request and its connection."""

from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from benchmarks.claims.claim import (
    Claim,
    Result,
    at_least,
    at_most,
    difference_ms,
    milliseconds,
    ratio,
)
from benchmarks.claims.database import disposed
from benchmarks.claims.measure import Bench
from service.database.engine import create_engine
from service.database.sessions import create_sessions
from service.models import Item


async def engine_per_request(bench: Bench) -> Result:
    """One item by `session.get`, on the process's engine and on one of the request's own."""
    id_ = bench.ids[0]

    async def on_own_engine() -> None:
        async with disposed(create_engine(bench.settings)) as engine:
            await _get_item(engine, id_)

    async with disposed(create_engine(bench.settings)) as engine:
        samples = await bench.alternate(
            {
                "creating an engine": bench.calls(lambda: create_engine(bench.settings)),
                "engine per request": bench.awaits(on_own_engine),
                "one engine": bench.awaits(lambda: _get_item(engine, id_)),
            }
        )
    return Result(
        samples,
        [
            Claim(
                "Creating an engine is slow",
                "50 to 100 ms",
                milliseconds(samples, "creating an engine"),
                at_least(50, in_part=25),
            ),
            Claim(
                "An engine per request is many times slower than one for the process",
                "10x or more",
                ratio(samples, "engine per request", "one engine"),
                at_least(10, in_part=2),
            ),
        ],
    )


async def pool(bench: Bench) -> Result:
    """One item by `session.get`, on a pooled connection and on a new one (no TLS) each time."""
    id_ = bench.ids[0]
    url = bench.settings.engine_url
    async with (
        disposed(create_async_engine(url)) as pooled,
        disposed(create_async_engine(url, poolclass=NullPool)) as unpooled,
    ):
        samples = await bench.alternate(
            {
                "new connection": bench.awaits(lambda: _get_item(unpooled, id_)),
                "pooled": bench.awaits(lambda: _get_item(pooled, id_)),
            }
        )
    return Result(
        samples,
        [
            Claim(
                "A new connection is slow",
                "50 to 100 ms",
                difference_ms(samples, "new connection", "pooled"),
                at_least(50, in_part=25),
            ),
            Claim(
                "A pool makes requests several times faster",
                "5x to 10x",
                ratio(samples, "new connection", "pooled"),
                at_least(5),
            ),
        ],
    )


async def pool_pre_ping(bench: Bench) -> Result:
    """One item by `session.get`, on connections that the pool does not check, pings, or asks
    whether the driver has seen them close (the service's listener)."""
    id_ = bench.ids[0]
    url = bench.settings.engine_url
    async with (
        disposed(create_async_engine(url)) as unchecked,
        disposed(create_async_engine(url, pool_pre_ping=True)) as pinged,
        disposed(create_engine(bench.settings)) as listened,
    ):
        samples = await bench.alternate(
            {
                "unchecked": bench.awaits(lambda: _get_item(unchecked, id_)),
                "pre-ping": bench.awaits(lambda: _get_item(pinged, id_)),
                "listener": bench.awaits(lambda: _get_item(listened, id_)),
            }
        )
    return Result(
        samples,
        [
            Claim(
                "`pool_pre_ping` costs next to nothing",
                "a few percent",
                ratio(samples, "pre-ping", "unchecked"),
                at_most(1.05, in_part=1.2),
            ),
            Claim(
                "A checkout listener finds closed connections for nothing",
                "our own claim",
                ratio(samples, "listener", "unchecked"),
                at_most(1.05, in_part=1.2),
            ),
        ],
    )


async def _get_item(engine: AsyncEngine, id_: int) -> None:
    """What the usual request does: a session, a transaction, one row."""
    async with create_sessions(engine).begin() as session:
        assert await session.get(Item, id_)
