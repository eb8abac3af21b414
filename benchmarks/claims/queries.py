"""One item by the ORM, one by Core, and 32 in one statement."""

from collections.abc import Sequence
from itertools import cycle

from sqlalchemy.ext.asyncio import AsyncEngine

from benchmarks.claims.claim import Claim, Result, at_least, ratio
from benchmarks.claims.database import disposed
from benchmarks.claims.measure import Bench
from service.crud import item as crud
from service.database.engine import create_engine, transactional
from service.database.sessions import create_sessions
from service.models import Item

SET = 32


async def queries(bench: Bench) -> Result:
    """Items read by id, one after the other; the figures are per item. Without AUTOCOMMIT each
    read stands in a transaction."""
    ids = cycle(bench.ids)
    sets = cycle([bench.ids[start : start + SET] for start in range(0, SET * 10, SET)])

    async with disposed(create_engine(bench.settings)) as engine:
        sessions = create_sessions(engine)
        in_transaction = transactional(engine)

        async def by_orm() -> None:
            async with sessions.begin() as session:
                assert await session.get(Item, next(ids))

        samples = await bench.alternate(
            {
                "ORM": bench.awaits(by_orm),
                "Core": bench.awaits(lambda: _by_core(in_transaction, [next(ids)])),
                "Core, AUTOCOMMIT": bench.awaits(lambda: _by_core(engine, [next(ids)])),
                "set of 32": bench.awaits(lambda: _by_core(engine, next(sets))),
            }
        )
    samples["set of 32"] = [seconds / SET for seconds in samples["set of 32"]]
    return Result(
        samples,
        [
            Claim(
                "Core is about twice as fast as the ORM",
                "1.5x to 3x",
                ratio(samples, "ORM", "Core"),
                at_least(1.5),
            ),
            Claim(
                "A single statement does not need BEGIN and COMMIT, and is faster without",
                "our own claim, 1.7x",
                ratio(samples, "Core", "Core, AUTOCOMMIT"),
                at_least(1.7),
            ),
            Claim(
                "One statement for many ids beats one each",
                "10x to 100x",
                ratio(samples, "ORM", "set of 32"),
                at_least(10),
            ),
        ],
    )


async def _by_core(engine: AsyncEngine, ids: Sequence[int]) -> None:
    async with engine.begin() as conn:
        await crud.get_many(conn, ids)
