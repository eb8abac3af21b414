"""The options of Pydantic's `ConfigDict` that the schemas share."""

from typing import Any

from benchmarks.claims.bench import Bench, Samples
from benchmarks.claims.objects import TEXTS
from service.schemas.item import ItemCreate

WITH_EXTRA: dict[str, Any] = {**TEXTS, "color": "red", "size": 40, "tags": ["a", "b"]}


class ValidatesAssignment(ItemCreate, validate_assignment=True):
    """Validates a field that is set."""


class ValidatesDefault(ItemCreate, validate_default=True):
    """Validates defaults, too."""


class KeepsSpaces(ItemCreate, str_strip_whitespace=False):
    """Keeps white space around text."""


class AllowsExtra(ItemCreate, extra="allow"):
    """Keeps unknown fields."""


class ForbidsExtra(ItemCreate, extra="forbid"):
    """Refuses unknown fields."""


async def config(bench: Bench) -> Samples:
    """Setting a field of a model, and creating a model from a body of two of its four fields.
    "Default" is the service's `ItemCreate`; each other model changes one option. "Extra sent" is
    the body with three unknown fields."""
    item, validating = ItemCreate(**TEXTS), ValidatesAssignment(**TEXTS)
    return await bench.measure(
        {
            "set": bench.calls(lambda: setattr(item, "name", "Lamp")),
            "set, validate_assignment": bench.calls(lambda: setattr(validating, "name", "Lamp")),
            "default": bench.calls(lambda: ItemCreate.model_validate(TEXTS)),
            "validate_assignment": bench.calls(lambda: ValidatesAssignment.model_validate(TEXTS)),
            "validate_default": bench.calls(lambda: ValidatesDefault.model_validate(TEXTS)),
            "no strip": bench.calls(lambda: KeepsSpaces.model_validate(TEXTS)),
            "forbid": bench.calls(lambda: ForbidsExtra.model_validate(TEXTS)),
            "ignore, extra sent": bench.calls(lambda: ItemCreate.model_validate(WITH_EXTRA)),
            "allow, extra sent": bench.calls(lambda: AllowsExtra.model_validate(WITH_EXTRA)),
        }
    )
