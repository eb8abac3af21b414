"""Pydantic models against dataclasses: what an object costs to make, to hold and to convert."""

import tracemalloc
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from decimal import Decimal
from typing import Any

from pydantic import BaseModel

from benchmarks.claims.claim import Claim, Result, at_least, milliseconds, ratio
from benchmarks.claims.measure import Bench
from benchmarks.claims.tuning import tuned_collector
from service.schemas.item import ItemCreate

OBJECTS = 10_000
BODY: dict[str, Any] = {
    "name": "Desk lamp",
    "description": "Warm light, 40 cm",
    "price": Decimal("29.99"),
    "is_active": True,
}


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


async def creation(bench: Bench) -> Result:
    """10,000 objects of four members, each from the same mapping, kept in a list; the garbage
    collector is on, and set as the service sets it."""
    with tuned_collector():
        samples = await bench.alternate(
            {
                "model": bench.calls(lambda: [Model(**BODY) for _ in range(OBJECTS)]),
                "dataclass": bench.calls(lambda: [Plain(**BODY) for _ in range(OBJECTS)]),
                "slotted": bench.calls(lambda: [Slotted(**BODY) for _ in range(OBJECTS)]),
            }
        )
    return Result(
        samples,
        [
            Claim(
                "A Pydantic model takes many times as long to create as a dataclass",
                "7x to 8x",
                ratio(samples, "model", "dataclass"),
                at_least(7),
            ),
            Claim(
                "Slots make a dataclass faster to create",
                "10% to 20%",
                ratio(samples, "dataclass", "slotted"),
                at_least(1.1, in_part=1.03),
            ),
        ],
    )


async def memory(bench: Bench) -> Result:
    """Bytes an object, by tracemalloc, over 10,000 objects whose members they all share."""
    samples = await bench.alternate(
        {
            "model": _bytes_each(lambda: Model(**BODY)),
            "dataclass": _bytes_each(lambda: Plain(**BODY)),
            "slotted": _bytes_each(lambda: Slotted(**BODY)),
        }
    )
    return Result(
        samples,
        [
            Claim(
                "A Pydantic model takes several times the memory of a dataclass",
                "2x to 3x",
                ratio(samples, "model", "dataclass"),
                at_least(2),
            ),
            Claim(
                "Slots halve what a dataclass takes",
                "40% to 50% less",
                ratio(samples, "dataclass", "slotted"),
                at_least(1.67),
            ),
        ],
        unit="byte",
    )


def _bytes_each(make: Callable[[], object]) -> Callable[[], Awaitable[float]]:
    async def measure() -> float:
        objects: list[object] = [None] * OBJECTS
        tracemalloc.start()
        for index in range(OBJECTS):
            objects[index] = make()
        size, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return size / OBJECTS

    return measure


async def conversion(bench: Bench) -> Result:
    """One body of four members through the service's own `ItemCreate`, and on to a mapping."""
    item = ItemCreate.model_validate(BODY)
    samples = await bench.alternate(
        {
            "validation": bench.calls(lambda: ItemCreate.model_validate(BODY)),
            "model_dump": bench.calls(item.model_dump),
            "asdict": bench.calls(lambda: asdict(item.to_domain())),
            "member by member": bench.calls(lambda: item.to_domain().to_dict()),
        }
    )
    return Result(
        samples,
        [
            Claim(
                "Validating a request's body takes milliseconds",
                "about 1.5 ms",
                milliseconds(samples, "validation"),
                at_least(1, in_part=0.1),
            ),
            Claim(
                "Model to dataclass to `asdict` is faster than `model_dump`",
                "faster",
                ratio(samples, "model_dump", "asdict"),
                at_least(1.1, in_part=1),
            ),
            Claim(
                "Model to dataclass to mapping, member by member, is faster than `model_dump`",
                "our own claim",
                ratio(samples, "model_dump", "member by member"),
                at_least(1.1, in_part=1),
            ),
        ],
    )
