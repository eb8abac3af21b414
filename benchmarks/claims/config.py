"""Each option of the schemas' shared `ConfigDict`: what it costs."""

from typing import Any

from pydantic import ValidationError

from benchmarks.claims.claim import Claim, Result, at_least, at_most, ratio
from benchmarks.claims.measure import Bench
from service.schemas.item import ItemCreate

BODY: dict[str, Any] = {"name": "Desk lamp", "description": "Warm light, 40 cm"}
PADDED: dict[str, Any] = {key: f"  {value} " for key, value in BODY.items()}
WITH_EXTRA: dict[str, Any] = {**BODY, "color": "red", "size": 40, "tags": ["a", "b"]}


class AssignmentOn(ItemCreate, validate_assignment=True):
    """`ItemCreate` with one option changed, as are those below."""


class DefaultsOn(ItemCreate, validate_default=True):
    """Validates what was left out, too."""


class StripOff(ItemCreate, str_strip_whitespace=False):
    """Keeps white space around text."""


class ExtraAllowed(ItemCreate, extra="allow"):
    """Keeps what it does not know."""


class ExtraForbidden(ItemCreate, extra="forbid"):
    """Refuses what it does not know."""


async def validate_assignment(bench: Bench) -> Result:
    """Setting one member of a model, and creating one."""
    off, on = ItemCreate(**BODY), AssignmentOn(**BODY)
    samples = await bench.alternate(
        {
            "set, off": bench.calls(lambda: setattr(off, "name", "Lamp")),
            "set, on": bench.calls(lambda: setattr(on, "name", "Lamp")),
            "create, off": bench.calls(lambda: ItemCreate.model_validate(BODY)),
            "create, on": bench.calls(lambda: AssignmentOn.model_validate(BODY)),
        }
    )
    return Result(
        samples,
        [
            Claim(
                "`validate_assignment` makes setting a member dearer",
                "about 1.7x",
                ratio(samples, "set, on", "set, off"),
                at_least(1.7),
            ),
            Claim(
                "`validate_assignment` costs nothing at creation",
                "nothing",
                ratio(samples, "create, on", "create, off"),
                at_most(1.05, in_part=1.1),
            ),
        ],
    )


async def validate_default(bench: Bench) -> Result:
    """Creating a model from a body that leaves two of four members out."""
    samples = await bench.alternate(
        {
            "off": bench.calls(lambda: ItemCreate.model_validate(BODY)),
            "on": bench.calls(lambda: DefaultsOn.model_validate(BODY)),
        }
    )
    return Result(
        samples,
        [
            Claim(
                "`validate_default` makes creation noticeably dearer",
                "noticeably",
                ratio(samples, "on", "off"),
                at_least(1.25),
            )
        ],
    )


async def str_strip_whitespace(bench: Bench) -> Result:
    """Creating a model with two texts, without white space to strip and with."""
    samples = await bench.alternate(
        {
            "off": bench.calls(lambda: StripOff.model_validate(BODY)),
            "on": bench.calls(lambda: ItemCreate.model_validate(BODY)),
            "on, padded text": bench.calls(lambda: ItemCreate.model_validate(PADDED)),
        }
    )
    return Result(
        samples,
        [
            Claim(
                "`str_strip_whitespace` is free",
                "next to nothing",
                ratio(samples, "on", "off"),
                at_most(1.05, in_part=1.15),
            )
        ],
    )


async def extra(bench: Bench) -> Result:
    """Creating a model from two members it knows, and with three more that it does not."""
    samples = await bench.alternate(
        {
            "ignore": bench.calls(lambda: ItemCreate.model_validate(BODY)),
            "allow": bench.calls(lambda: ExtraAllowed.model_validate(BODY)),
            "forbid": bench.calls(lambda: ExtraForbidden.model_validate(BODY)),
            "ignore, extra sent": bench.calls(lambda: ItemCreate.model_validate(WITH_EXTRA)),
            "allow, extra sent": bench.calls(lambda: ExtraAllowed.model_validate(WITH_EXTRA)),
            "forbid, extra sent": bench.calls(_refused),
        }
    )
    return Result(
        samples,
        [
            Claim(
                "`extra='forbid'` makes a good body dearer to validate than 'ignore'",
                "noticeably",
                ratio(samples, "forbid", "ignore"),
                at_least(1.25),
            ),
            Claim(
                "`extra='allow'` is dearer than 'ignore' when there is something extra",
                "noticeably",
                ratio(samples, "allow, extra sent", "ignore, extra sent"),
                at_least(1.25),
            ),
        ],
    )


def _refused() -> None:
    try:
        ExtraForbidden.model_validate(WITH_EXTRA)
    except ValidationError:
        return
    raise AssertionError("extra members were accepted")
