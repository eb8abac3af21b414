"""Ways to answer with a list of 20 items."""

import warnings
from datetime import UTC, datetime
from decimal import Decimal
from time import thread_time

from fastapi import FastAPI, Response
from fastapi.exceptions import FastAPIDeprecationWarning
from fastapi.responses import JSONResponse, ORJSONResponse

from benchmarks.claims.asgi import get
from benchmarks.claims.claim import Claim, Result, at_least, ratio
from benchmarks.claims.measure import Bench
from service.domain.item import Item
from service.http.responses import json_response
from service.schemas.item import ItemRead

NOW = datetime.now(UTC)
ITEMS = [
    Item(number, f"Desk lamp {number}", "Warm light, 40 cm", Decimal("29.99"), True, 1, NOW, NOW)
    for number in range(20)
]

app = FastAPI()


@app.get("/default")
async def by_default() -> list[ItemRead]:
    """FastAPI validates what it is given, and writes JSON by Pydantic."""
    return ITEMS  # type: ignore[return-value]


@app.get("/json", response_class=JSONResponse)
async def by_json_response() -> list[ItemRead]:
    """The same, through Python objects and the standard library."""
    return ITEMS  # type: ignore[return-value]


@app.get("/orjson", response_class=ORJSONResponse)
async def by_orjson_response() -> list[ItemRead]:
    """The same, through Python objects and orjson."""
    return ITEMS  # type: ignore[return-value]


@app.get("/bytes", response_model=list[ItemRead])
async def by_bytes() -> Response:
    """What the service does: orjson writes the dataclasses, nothing is validated again."""
    return json_response(ITEMS)


async def responses(bench: Bench) -> Result:
    """A request for 20 items, a list of dataclasses, to an application in this process; the model
    of the answer is declared each time. The warning of the deprecated class is suppressed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FastAPIDeprecationWarning)
        samples = await bench.alternate(
            {
                "default": bench.awaits(get(app, "/default"), thread_time),
                "JSONResponse": bench.awaits(get(app, "/json"), thread_time),
                "ORJSONResponse": bench.awaits(get(app, "/orjson"), thread_time),
                "orjson bytes": bench.awaits(get(app, "/bytes"), thread_time),
            }
        )
    return Result(
        samples,
        [
            Claim(
                "ORJSONResponse is faster than what FastAPI does by default",
                "2x to 3x",
                ratio(samples, "default", "ORJSONResponse"),
                at_least(2),
            ),
            Claim(
                "ORJSONResponse is faster than JSONResponse",
                "2x to 3x",
                ratio(samples, "JSONResponse", "ORJSONResponse"),
                at_least(2),
            ),
            Claim(
                "orjson's bytes in a Response are faster than what FastAPI does by default",
                "our own claim",
                ratio(samples, "default", "orjson bytes"),
                at_least(1.25),
            ),
        ],
    )
