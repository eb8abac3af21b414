"""The garbage collector: `gc.freeze` and higher thresholds, against Python's defaults."""

import gc
from contextlib import nullcontext

from fastapi import FastAPI, Response
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
from starlette.types import ASGIApp

from benchmarks.claims.asgi import Load, get, load, p99
from benchmarks.claims.claim import Claim, Result, at_least, ratio
from benchmarks.claims.database import disposed
from benchmarks.claims.measure import Bench, Variant
from benchmarks.claims.tuning import tuned_collector
from service.database.engine import create_engine
from service.database.sessions import create_sessions
from service.http.responses import json_response
from service.models import Item

CONCURRENCY = 16
HEAP = 200_000  # mappings, beside what the imported modules hold: caches, metadata, schemas


async def collector(bench: Bench) -> Result:
    """16 requests at a time to an application in this process, each for 20 items through an ORM
    session, beside 200,000 mappings that stay. "On" is `gc.freeze()` and the service's thresholds;
    "CPU" is the CPU time per request."""
    heap = [{"number": number} for number in range(HEAP)]
    async with disposed(create_engine(bench.settings)) as engine:
        app = _app(create_sessions(engine))
        loads = await bench.alternate(
            {"off": _load(bench, app, is_on=False), "on": _load(bench, app, is_on=True)}
        )
    heap.clear()
    samples = {
        **{f"{name}, CPU": [load.cpu for load in loads[name]] for name in loads},
        **{f"{name}, p99": [p99(load.latencies) for load in loads[name]] for name in loads},
    }
    return Result(
        samples,
        [
            Claim(
                "`gc.freeze` and higher thresholds let a core serve more requests",
                "15% to 20% more",
                ratio(samples, "off, CPU", "on, CPU"),
                at_least(1.15, in_part=1.05),
            ),
            Claim(
                "`gc.freeze` and higher thresholds halve p99",
                "half or less",
                ratio(samples, "off, p99", "on, p99"),
                at_least(2),
            ),
        ],
    )


def _app(sessions: async_sessionmaker[AsyncSession]) -> ASGIApp:
    app = FastAPI()

    @app.get("/")
    async def list_items() -> Response:
        async with sessions.begin() as session:
            items = await session.scalars(select(Item).limit(20))
            return json_response([{"id": item.id, "name": item.name} for item in items])

    return app


def _load(bench: Bench, app: ASGIApp, *, is_on: bool) -> Variant[Load]:
    seconds = max(4 * bench.seconds, 1)  # full collections are rare

    async def measure() -> Load:
        gc.collect()
        with tuned_collector() if is_on else nullcontext():
            return await load(get(app, "/"), CONCURRENCY, seconds)

    return measure
