"""What becomes of the other requests while one computes."""

import asyncio
import hashlib

from fastapi import FastAPI

from benchmarks.claims.asgi import get, paced
from benchmarks.claims.claim import Claim, Result, at_least, at_most, ratio
from benchmarks.claims.measure import Bench, Variant

LIGHT_EVERY = 0.005  # seconds
HEAVY_EVERY = 0.1  # seconds; each computes for almost half of that

app = FastAPI()


@app.get("/light")
async def light() -> None:
    """One of the others."""


@app.get("/async/python")
async def python_in_async_def() -> int:
    """Computes on the event loop."""
    return sum(number * number for number in range(1_000_000))


@app.get("/def/python")
def python_in_thread() -> int:
    """Computes in a thread, and holds the interpreter's lock."""
    return sum(number * number for number in range(1_000_000))


@app.get("/def/hash")
def hash_in_thread() -> None:
    """Computes in a thread, outside of the interpreter's lock, as C libraries may."""
    hashlib.pbkdf2_hmac("sha256", b"password", b"salt", 250_000)


async def blocking(bench: Bench) -> Result:
    """Light requests, one each 5 ms, while each 100 ms a heavy one computes for some 40 ms. The
    figures are the light ones' p99, counted from when each was due, in this process."""
    samples = await bench.alternate(
        {
            "no work": _p99(bench, None),
            "Python in async def": _p99(bench, "/async/python"),
            "Python in a thread": _p99(bench, "/def/python"),
            "C in a thread": _p99(bench, "/def/hash"),
        }
    )
    return Result(
        samples,
        [
            Claim(
                "CPU work in `async def` holds up every other request",
                "10x and more on p99",
                ratio(samples, "Python in async def", "no work"),
                at_least(10, in_part=2),
            ),
            Claim(
                "A thread keeps Python code's work from the others",
                "p99 as with no work",
                ratio(samples, "Python in a thread", "no work"),
                at_most(1.5, in_part=3),
            ),
            Claim(
                "A thread keeps work that releases the interpreter's lock from the others",
                "p99 as with no work",
                ratio(samples, "C in a thread", "no work"),
                at_most(1.5, in_part=3),
            ),
            Claim(
                "For Python code a thread is at least far better than `async def`",
                "2x and more on p99",
                ratio(samples, "Python in async def", "Python in a thread"),
                at_least(2),
            ),
        ],
    )


def _p99(bench: Bench, heavy: str | None) -> Variant[float]:
    seconds = max(4 * bench.seconds, 0.5)  # a p99 wants at least a hundred requests

    async def measure() -> float:
        others = paced(get(app, "/light"), LIGHT_EVERY, seconds)
        if heavy is None:
            return await others
        p99, _ = await asyncio.gather(others, paced(get(app, heavy), HEAVY_EVERY, seconds))
        return p99

    return measure
