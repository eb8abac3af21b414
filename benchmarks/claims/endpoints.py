"""`async def` and `def` endpoints, which FastAPI runs in a pool of 40 threads."""

import asyncio
import hashlib
import time

from fastapi import FastAPI

from benchmarks.claims.asgi import get, p99_at_a_rate, seconds_each
from benchmarks.claims.bench import Bench, Samples, Variant

WAIT = 0.005  # seconds, as a query may take
LIGHT_EVERY = 0.005  # seconds
HEAVY_EVERY = 0.1  # seconds; each computes for almost half of that

app = FastAPI()


@app.get("/async/wait")
async def wait_async() -> None:
    """Wait as an asynchronous driver does."""
    await asyncio.sleep(WAIT)


@app.get("/def/wait")
def wait_def() -> None:
    """Wait as a synchronous driver does."""
    time.sleep(WAIT)


@app.get("/async/nothing")
async def nothing_async() -> None:
    """Only respond."""


@app.get("/def/nothing")
def nothing_def() -> None:
    """Only respond, from a thread."""


@app.get("/async/python")
async def python_async() -> int:
    """Compute on the event loop."""
    return sum(number * number for number in range(1_000_000))


@app.get("/def/python")
def python_def() -> int:
    """Compute in a thread, with the GIL."""
    return sum(number * number for number in range(1_000_000))


@app.get("/def/hash")
def hash_def() -> None:
    """Compute in a thread without the GIL, as C libraries may."""
    hashlib.pbkdf2_hmac("sha256", b"password", b"salt", 250_000)


async def endpoints(bench: Bench) -> Samples:
    """1, 100 or 1000 requests at a time to an application in this process, per request served.
    Each waits 5 ms as for a database: in `asyncio.sleep`, or in `time.sleep` in a thread. "No wait"
    is 100 requests at a time to endpoints that do nothing."""
    return await bench.measure(
        {
            f"{style}, {name}": _served(bench, f"/{path}/{work}", concurrency)
            for name, work, concurrency in (
                ("1", "wait", 1),
                ("100", "wait", 100),
                ("1000", "wait", 1000),
                ("no wait", "nothing", 100),
            )
            for style, path in (("async def", "async"), ("def", "def"))
        }
    )


async def blocking(bench: Bench) -> Samples:
    """The p99 of light requests, one every 5 ms, while a heavy one every 100 ms computes for about
    40 ms, in this process. Latency counts from when each request was due."""
    return await bench.measure(
        {
            "no work": _p99(bench, None),
            "Python in async def": _p99(bench, "/async/python"),
            "Python in a thread": _p99(bench, "/def/python"),
            "C in a thread": _p99(bench, "/def/hash"),
        }
    )


def _served(bench: Bench, path: str, concurrency: int) -> Variant:
    """Return a variant: seconds per request served."""

    async def measure() -> float:
        return await seconds_each(get(app, path), concurrency, 4 * bench.seconds)

    return measure


def _p99(bench: Bench, heavy: str | None) -> Variant:
    seconds = max(4 * bench.seconds, 0.5)  # a p99 takes at least a hundred requests

    async def measure() -> float:
        light = p99_at_a_rate(get(app, "/async/nothing"), LIGHT_EVERY, seconds)
        if heavy is None:
            return await light
        work = p99_at_a_rate(get(app, heavy), HEAVY_EVERY, seconds)
        p99, _ = await asyncio.gather(light, work)
        return p99

    return measure
