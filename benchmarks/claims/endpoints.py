"""`async def` against `def` endpoints, which FastAPI runs in a pool of 40 threads."""

import asyncio
import time

from fastapi import FastAPI

from benchmarks.claims.asgi import get, load
from benchmarks.claims.claim import Claim, Result, Samples, at_least, at_most, ratio
from benchmarks.claims.measure import Bench, Variant

WAIT = 0.005  # seconds, as a query may take

app = FastAPI()


@app.get("/async/wait")
async def wait_async() -> None:
    """Waits as an asynchronous driver does."""
    await asyncio.sleep(WAIT)


@app.get("/def/wait")
def wait_def() -> None:
    """Waits as a synchronous driver does."""
    time.sleep(WAIT)


@app.get("/async/nothing")
async def nothing_async() -> None:
    """Only answers."""


@app.get("/def/nothing")
def nothing_def() -> None:
    """Only answers, from a thread."""


async def endpoints_at_1(bench: Bench) -> Result:
    """One request at a time, to an application in this process, waiting 5 ms as for a database: in
    `asyncio.sleep`, or in `time.sleep` in a thread. The figures are per request served."""
    samples = await _served(bench, "wait", 1)
    claim = Claim(
        "For one request at a time `async def` and `def` are level",
        "no difference",
        ratio(samples, "def", "async def"),
        at_most(1.05, in_part=1.2),
    )
    return Result(samples, [claim])


async def endpoints_at_100(bench: Bench) -> Result:
    """The same at 100 requests at a time."""
    samples = await _served(bench, "wait", 100)
    claim = Claim(
        "For 100 requests at a time that wait, `async def` serves several times as many",
        "2x to 4x",
        ratio(samples, "def", "async def"),
        at_least(2),
    )
    return Result(samples, [claim])


async def endpoints_at_1000(bench: Bench) -> Result:
    """The same at 1000 requests at a time. With waits this short what a thread costs bounds `def`;
    with longer ones their number, 40, would."""
    samples = await _served(bench, "wait", 1000)
    claim = Claim(
        "For 1000 requests at a time that wait, `async def` serves many times as many",
        "4x or more",
        ratio(samples, "def", "async def"),
        at_least(4),
    )
    return Result(samples, [claim])


async def endpoints_idle(bench: Bench) -> Result:
    """100 requests at a time to endpoints that do nothing at all."""
    samples = await _served(bench, "nothing", 100)
    claim = Claim(
        "`async def` is faster even where nothing waits, as it needs no thread",
        "1.9x",
        ratio(samples, "def", "async def"),
        at_least(1.9),
    )
    return Result(samples, [claim])


async def _served(bench: Bench, work: str, concurrency: int) -> Samples:
    """Seconds per request served."""

    def serve(path: str) -> Variant[float]:
        request = get(app, path)

        async def measure() -> float:
            return (await load(request, concurrency, 4 * bench.seconds)).elapsed

        return measure

    return await bench.alternate(
        {"async def": serve(f"/async/{work}"), "def": serve(f"/def/{work}")}
    )
