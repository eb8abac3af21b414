"""Validation once, at the boundary, against validation in every layer."""

from datetime import UTC, datetime
from typing import Any

import orjson

from benchmarks.claims.claim import Claim, Result, at_least, ratio
from benchmarks.claims.measure import Bench
from service.domain.item import Item
from service.schemas.item import ItemCreate, ItemRead

BODY: dict[str, Any] = {"name": "Desk lamp", "description": "Warm light, 40 cm"}
NOW = datetime.now(UTC)


class ServiceItem(ItemCreate):
    """What the service layer of many a project validates again."""


class StoredItem(ItemRead):
    """And its layer of data access, on the way up."""


async def layers(bench: Bench) -> Result:
    """A body down to the row's values and a row up to JSON, with no database between the two."""
    samples = await bench.alternate(
        {
            "once": bench.calls(_once),
            "in every layer": bench.calls(_in_every_layer),
        }
    )
    return Result(
        samples,
        [
            Claim(
                "Validating in every layer costs a multiple of validating at the boundary",
                "2x or more",
                ratio(samples, "in every layer", "once"),
                at_least(2),
            )
        ],
    )


def _once() -> bytes:
    values = ItemCreate.model_validate(BODY).to_domain().to_dict()
    return orjson.dumps(Item(**_stored(values)))


def _in_every_layer() -> bytes:
    requested = ItemCreate.model_validate(BODY)
    wanted = ServiceItem.model_validate(requested.model_dump())
    stored = StoredItem.model_validate(_stored(wanted.model_dump()))
    answer = ItemRead.model_validate(stored.model_dump())
    return answer.model_dump_json().encode()


def _stored(values: dict[str, Any]) -> dict[str, Any]:
    """The row that the database would answer with."""
    return {**values, "id": 1, "version": 1, "created_at": NOW, "updated_at": NOW}
