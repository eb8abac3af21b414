"""Pydantic models and dataclasses: the cost of creating, holding and converting objects."""

import gc
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import orjson
from pydantic import BaseModel

from benchmarks.claims.bench import Bench, Samples, Variant
from service.domain.item import Item
from service.schemas.item import ItemCreate, ItemRead
from service.server.worker import GC_THRESHOLDS

OBJECTS = 10_000
NOW = datetime.now(UTC)
BODY: dict[str, Any] = {
    "name": "Desk lamp",
    "description": "Warm light, 40 cm",
    "price": Decimal("29.99"),
    "is_active": True,
}
TEXTS: dict[str, Any] = {"name": "Desk lamp", "description": "Warm light, 40 cm"}


class Model(BaseModel):
    """An item's content, validated."""

    name: str
    description: str | None
    price: Decimal | None
    is_active: bool


@dataclass
class Plain:
    """The same, not validated."""

    name: str
    description: str | None
    price: Decimal | None
    is_active: bool


@dataclass(slots=True)
class Slotted:
    """The same in slots."""

    name: str
    description: str | None
    price: Decimal | None
    is_active: bool


class ServiceItem(ItemCreate):
    """The model that a service layer would validate again."""


class StoredItem(ItemRead):
    """The model that a data access layer would validate."""


async def objects(bench: Bench) -> Samples:
    """Creating 10,000 objects of four fields, each from the same mapping, in a list. The garbage
    collector is on, with the service's settings."""
    with tuned_collector():
        return await bench.measure(
            {
                "model": bench.calls(lambda: [Model(**BODY) for _ in range(OBJECTS)]),
                "dataclass": bench.calls(lambda: [Plain(**BODY) for _ in range(OBJECTS)]),
                "slotted": bench.calls(lambda: [Slotted(**BODY) for _ in range(OBJECTS)]),
            }
        )


@contextmanager
def tuned_collector() -> Iterator[None]:
    """Set the garbage collector as service/server/worker.py does, and undo it afterwards."""
    default = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    try:
        yield
    finally:
        gc.set_threshold(*default)
        gc.unfreeze()


async def memory(bench: Bench) -> Samples:
    """Bytes per object by tracemalloc, over 10,000 objects that share their values."""
    return await bench.measure(
        {
            "model": _bytes_each(lambda: Model(**BODY)),
            "dataclass": _bytes_each(lambda: Plain(**BODY)),
            "slotted": _bytes_each(lambda: Slotted(**BODY)),
        }
    )


def _bytes_each(create: Callable[[], object]) -> Variant:
    async def measure() -> float:
        objects: list[object] = [None] * OBJECTS
        tracemalloc.start()
        for index in range(OBJECTS):
            objects[index] = create()
        size, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return size / OBJECTS

    return measure


async def conversion(bench: Bench) -> Samples:
    """A body of four fields through the service's `ItemCreate`, and on to a mapping. "Once" and
    "in every layer": a body of two fields to the values of a row, and a row to JSON, without a
    database."""
    item = ItemCreate.model_validate(BODY)
    return await bench.measure(
        {
            "validation": bench.calls(lambda: ItemCreate.model_validate(BODY)),
            "model_dump": bench.calls(item.model_dump),
            "asdict": bench.calls(lambda: asdict(item.to_domain())),
            "field by field": bench.calls(lambda: item.to_domain().to_dict()),
            "once": bench.calls(_validate_once),
            "in every layer": bench.calls(_validate_in_every_layer),
        }
    )


def _validate_once() -> bytes:
    values = ItemCreate.model_validate(TEXTS).to_domain().to_dict()
    return orjson.dumps(Item(**_stored(values)))


def _validate_in_every_layer() -> bytes:
    requested = ItemCreate.model_validate(TEXTS)
    wanted = ServiceItem.model_validate(requested.model_dump())
    stored = StoredItem.model_validate(_stored(wanted.model_dump()))
    answer = ItemRead.model_validate(stored.model_dump())
    return answer.model_dump_json().encode()


def _stored(values: dict[str, Any]) -> dict[str, Any]:
    """Return the row that the database would return."""
    return {**values, "id": 1, "version": 1, "created_at": NOW, "updated_at": NOW}
