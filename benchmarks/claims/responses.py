"""Ways to respond with a list of 20 items."""

import warnings
from datetime import UTC, datetime
from decimal import Decimal
from time import thread_time

from fastapi import FastAPI, Response
from fastapi.exceptions import FastAPIDeprecationWarning
from fastapi.responses import JSONResponse, ORJSONResponse

from benchmarks.claims.asgi import get
from benchmarks.claims.bench import Bench, Samples
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
    """Have FastAPI validate the items and serialise them by Pydantic."""
    return ITEMS  # type: ignore[return-value]


@app.get("/json", response_class=JSONResponse)
async def by_json_response() -> list[ItemRead]:
    """The same, by way of Python objects and the standard library."""
    return ITEMS  # type: ignore[return-value]


@app.get("/orjson", response_class=ORJSONResponse)
async def by_orjson_response() -> list[ItemRead]:
    """The same, by way of Python objects and orjson."""
    return ITEMS  # type: ignore[return-value]


@app.get("/bytes", response_model=list[ItemRead])
async def by_bytes() -> Response:
    """As the service does: orjson serialises the dataclasses, and nothing is validated again."""
    return json_response(ITEMS)


async def responses(bench: Bench) -> Samples:
    """A request for 20 items, a list of dataclasses, to an application in this process. Each
    endpoint declares the response model."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FastAPIDeprecationWarning)
        return await bench.measure(
            {
                "default": bench.awaits(get(app, "/default"), thread_time),
                "JSONResponse": bench.awaits(get(app, "/json"), thread_time),
                "ORJSONResponse": bench.awaits(get(app, "/orjson"), thread_time),
                "orjson bytes": bench.awaits(get(app, "/bytes"), thread_time),
            }
        )
