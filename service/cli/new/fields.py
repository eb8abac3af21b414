"""The fields of a new resource: their kinds, and what each kind is in every layer."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any


@dataclass(slots=True, frozen=True)
class Kind:
    """A kind of field.

    Attributes:
        name: as in `--field name:kind`.
        column: its type in models.
        value: its type in domain.
        body: its type in a request's body; also in a response, unless `read` is set.
        migrated: its type in the migration.
        check: the name and the SQL of its CHECK constraint.
        note: a comment on the constraint.
        bound: its type as a filter.
        filters: the suffix, the condition in crud and the description of each filter.
        sort: the start of the names of its sort key in models and its position in schemas.
        example: for the OpenAPI document.
    """

    name: str
    column: str
    value: str
    body: str
    migrated: str
    example: Any
    read: str | None = None
    check: tuple[str, str] | None = None
    note: str = ""
    bound: str = ""
    filters: tuple[tuple[str, str, str], ...] = ()
    sort: str | None = None


RANGE = (
    ("_min", "at_least", "The lowest `{}`, included"),
    ("_max", "at_most", "The highest `{}`, included"),
)
PERIOD = (
    ("_after", "after", "Only where `{}` is after this time"),
    ("_before", "before", "Only where `{}` is before this time"),
)
TEXT = Kind(
    *("text", "str", "str", "LongText", "sa.Text()", "Some text"),
    check=("length", "char_length({0}) <= 10000"),
)
# The first text that is never null: one line, which `q` searches, and which sorts lists.
TITLE = Kind(
    *("text", "SortedText", "str", "ShortText", 'sa.Text(collation="C")', "Some text"),
    check=("length", "char_length({0}) <= 255 AND btrim({0}) <> ''"),
    sort="text",
)
INT = Kind(
    *("int", "int", "int", "BodyInt", "sa.BigInteger()", 3),
    read="int",
    bound="Int64",
    filters=RANGE,
    sort="int",
)
PRICE = Kind(
    *("price", "Money", "Decimal", "Price", "sa.Numeric(12, 2)", 29.99),
    check=("range", "{0} >= 0 AND {0} < 'NaN'"),
    note="NaN is a numeric value, greater than every number.",
    bound="PriceBound",
    filters=RANGE,
    sort="price",
)
BOOL = Kind(
    *("bool", "bool", "bool", "StrictBool", "sa.Boolean()", False),
    read="bool",
    bound="bool",
    filters=(("", "flag", "Only where `{}` has this value"),),
)
TIME = Kind(
    *("time", "datetime", "datetime", "BodyTime", "sa.DateTime(timezone=True)"),
    example="2026-11-22T09:30:00Z",
    read="datetime",
    check=("range", "{0} > '0001-01-01T00:00:00Z' AND {0} < '9999-12-31T23:59:59.999999Z'"),
    note="Python has no infinite time, and no year 10000.",
    bound="Time",
    filters=PERIOD,
    sort="time",
)
KINDS = {kind.name: kind for kind in (TEXT, INT, PRICE, BOOL, TIME)}


@dataclass(slots=True, frozen=True)
class Field:
    """A field of a resource, which clients write."""

    name: str
    kind: Kind
    nullable: bool
    example: Any

    @property
    def label(self) -> str:
        """Return the name in prose."""
        return self.name.replace("_", " ")

    @property
    def default(self) -> bool | None:
        """Return the value of a field that was not sent; only booleans and nullable fields have
        one."""
        return None if self.nullable else self.name == "is_active"

    @property
    def is_optional(self) -> bool:
        """Return whether a client may omit the field."""
        return self.nullable or self.kind is BOOL

    @property
    def filters(self) -> list[str]:
        """Return the names of its filters."""
        if self.kind is TITLE:
            return ["q"]
        return [self.name + suffix for suffix, _, _ in self.kind.filters]

    def or_none(self, type_: str) -> str:
        """Return the annotation for a type of the field."""
        return f"{type_} | None" if self.nullable else type_

    def describe(self, resource: str) -> str:
        """Return the description for the OpenAPI document; `resource` is a label."""
        if self.kind is BOOL:
            return f"Whether the {resource} is {self.label.removeprefix('is ')}"
        if self.kind is TITLE:
            return f"The {self.label}, after trimming"
        if self.kind is TIME:
            return f"The time `{self.name}`"
        if self.kind is PRICE:
            return f"The {self.label}, with at most two decimals"
        return f"The {self.label}"


def parse_fields(given: Sequence[str]) -> list[Field]:
    """Parse the fields of a resource, each like `quantity:int`, or `quantity:int?` if nullable.

    Raises:
        ValueError: one is malformed.
    """
    fields: list[Field] = []
    for text in given:
        name, _, kind_name = text.partition(":")
        kind = KINDS.get(kind_name.removesuffix("?"))
        if kind is None:
            raise ValueError(f"{text!r} should be NAME:KIND; kinds are {', '.join(KINDS)}")
        nullable = kind_name.endswith("?")
        example = True if name == "is_active" else kind.example
        field = Field(name, kind, nullable, example)
        if kind is TEXT:
            field = replace(field, example=f"Some {field.label}")
        fields.append(field)
    title = next((f for f in fields if f.kind is TEXT and not f.nullable), None)
    return [replace(f, kind=TITLE) if f is title else f for f in fields]
