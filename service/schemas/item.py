"""Items as clients write and read them."""

import re
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    StringConstraints,
    TypeAdapter,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
)
from pydantic.config import JsonDict
from pydantic_core import PydanticCustomError

from service.domain.item import ItemData, ItemFilter, ItemQuery, Position
from service.schemas.base import INT64_MAX, Int64, PlainSpelling, SafeText, Schema, Time

# How far into a list a page may reach: the database walks over everything before it.
DEEPEST = 1_000_000
MAX_PRICE = Decimal("9999999999.99")
CENT = Decimal("0.01")
PLAIN_DECIMAL = re.compile(r"[0-9]+(\.[0-9]+)?")


def _refuse_non_number(value: Any) -> Any:
    if isinstance(value, int | Decimal) and not isinstance(value, bool):
        return value
    raise PydanticCustomError("number_type", "Input should be a number")


def _refuse_non_decimal(value: Any) -> Any:
    # Pydantic reads 1_0 and 1e1 as 10.
    if not isinstance(value, str) or not PLAIN_DECIMAL.fullmatch(value):
        raise PydanticCustomError("decimal_parsing", "Input should be a valid decimal")
    return value


def _to_cents(value: Decimal) -> Decimal:
    # One spelling of each price; and the driver cannot send one as small as 0e-20000.
    return abs(value).quantize(CENT)


# What is trimmed: Unicode's, of which the \s of a regular expression has less.
WHITE_SPACE = r"\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
Name = Annotated[
    SafeText,
    StringConstraints(min_length=1, max_length=255),
    # Of white space alone nothing is left after trimming.
    WithJsonSchema(
        {
            "type": "string",
            "minLength": 1,
            "maxLength": 255,
            "pattern": rf"^[^\x00]*[^\x00{WHITE_SPACE}][^\x00]*$",
        }
    ),
]
Description = Annotated[SafeText, StringConstraints(max_length=10_000)]
Price = Annotated[
    Decimal,
    Field(ge=0, le=MAX_PRICE, max_digits=12, decimal_places=2),
    BeforeValidator(_refuse_non_number),
    AfterValidator(_to_cents),
    WithJsonSchema({"type": "number", "minimum": 0, "maximum": float(MAX_PRICE)}),
]
PriceBound = Annotated[
    Decimal,
    Field(ge=0, le=MAX_PRICE, max_digits=12, decimal_places=2),
    BeforeValidator(_refuse_non_decimal),
    AfterValidator(_to_cents),
    WithJsonSchema({"type": "number", "minimum": 0, "maximum": float(MAX_PRICE)}),
]

Sort = Literal[
    "id",
    "-id",
    "name",
    "-name",
    "price",
    "-price",
    "created_at",
    "-created_at",
    "updated_at",
    "-updated_at",
]
# By what a list is sorted, the place that a cursor holds: the key and the id.
PlaceId = Annotated[Int64, Field(strict=True)]
POSITIONS: dict[str, TypeAdapter[Position]] = {
    "id": TypeAdapter(tuple[PlaceId, PlaceId]),
    "name": TypeAdapter(tuple[SafeText, PlaceId]),
    "price": TypeAdapter(tuple[PriceBound | None, PlaceId]),
    "created_at": TypeAdapter(tuple[Time, PlaceId]),
    "updated_at": TypeAdapter(tuple[Time, PlaceId]),
}

EXAMPLE: JsonDict = {
    "name": "Desk lamp",
    "description": "Warm light, 40 cm",
    "price": 29.99,
    "is_active": True,
}
STORED_EXAMPLE: JsonDict = {
    "id": 1,
    **EXAMPLE,
    "version": 1,
    "created_at": "2026-11-22T09:30:00.123456+00:00",
    "updated_at": "2026-11-22T09:30:00.123456+00:00",
}


class ItemCreate(Schema):
    """An item as its maker describes it."""

    model_config = ConfigDict(json_schema_extra={"example": EXAMPLE})

    name: Name = Field(description="What it is called, after trimming")
    description: Description | None = Field(None, description="What it is")
    price: Price | None = Field(None, description="What it costs, with at most two decimals")
    is_active: StrictBool = Field(True, description="Whether it is offered")

    def to_domain(self) -> ItemData:
        """The form that the service works with."""
        return ItemData(self.name, self.description, self.price, self.is_active)


class ItemReplace(ItemCreate):
    """An item's new content, in full: what is left out returns to its default."""


class ItemUpdate(Schema):
    """Changes to an item: what is left out stays as it is, and null clears what may be empty."""

    model_config = ConfigDict(json_schema_extra={"example": {"price": 24.99}})

    # The factories only say that a field may be left out: what was not sent is never read.
    name: Name = Field(default_factory=str, description="What it is called, after trimming")
    description: Description | None = Field(None, description="What it is")
    price: Price | None = Field(None, description="What it costs, with at most two decimals")
    is_active: StrictBool = Field(default_factory=bool, description="Whether it is offered")

    def changes(self) -> dict[str, Any]:
        """What was sent, by column."""
        return self.model_dump(exclude_unset=True)


class ItemRead(Schema):
    """A stored item."""

    model_config = ConfigDict(json_schema_extra={"example": STORED_EXAMPLE})

    id: int = Field(json_schema_extra={"format": "int64"})
    name: Name
    description: Description | None
    price: Price | None
    is_active: bool
    version: int = Field(
        ge=1,
        description="1, then one more with each change",
        json_schema_extra={"format": "int64"},
    )
    created_at: datetime
    updated_at: datetime


class ItemBulk(Schema):
    """Items to create, all or none."""

    model_config = ConfigDict(json_schema_extra={"example": {"items": [EXAMPLE]}})

    items: list[ItemCreate] = Field(min_length=1, max_length=1000, description="In this order")


class ItemsCreated(Schema):
    """The items, stored, in the order in which they were sent."""

    model_config = ConfigDict(json_schema_extra={"example": {"items": [STORED_EXAMPLE]}})

    items: list[ItemRead]


class ItemFilterQuery(Schema):
    """Which items: those for which all that is given holds."""

    model_config = ConfigDict(extra="forbid", str_strip_whitespace=False)

    is_active: bool | None = Field(None, description="Only those active, or only those not")
    q: SafeText | None = Field(
        None,
        max_length=255,
        description="Part of the name, in either case, taken literally",
        examples=["lamp"],
    )
    price_min: PriceBound | None = Field(None, description="The lowest price, itself included")
    price_max: PriceBound | None = Field(None, description="The highest price, itself included")
    created_after: Time | None = Field(None, description="Only those made later than this")
    created_before: Time | None = Field(None, description="Only those made earlier than this")
    updated_after: Time | None = Field(None, description="Only those changed later than this")

    def to_filter(self) -> ItemFilter:
        """The form that the service works with."""
        return ItemFilter(
            self.is_active,
            self.q,
            self.price_min,
            self.price_max,
            self.created_after,
            self.created_before,
            self.updated_after,
        )


class ItemListQuery(ItemFilterQuery):
    """Which items to list, in which order, and which page of them."""

    # Before `page`, whose validator reads it.
    # The bounds stand before the validator, or the document does not have them.
    per_page: Annotated[int, Field(ge=1, le=100), PlainSpelling] = Field(
        20, description="Items on a page"
    )
    page: Annotated[
        int, Field(ge=1, le=INT64_MAX, json_schema_extra={"maximum": DEEPEST}), PlainSpelling
    ] = Field(1, description="The page, from 1")
    cursor: SafeText | None = Field(
        None,
        max_length=3000,
        description="Instead of `page`: the `next_cursor` of the page before, with the same filters"
        " and sort",
    )
    sort: Sort = Field("id", description="The order; with a minus its exact reverse. Ties go by id")
    count: Literal["capped", "exact", "none"] = Field(
        "capped",
        description="How to count all that match: up to 10,000, exactly (which takes the longer the"
        " more there are), or not at all",
    )

    @field_validator("page")
    @classmethod
    def _not_too_deep(cls, page: int, info: ValidationInfo) -> int:
        if page * info.data.get("per_page", 20) > DEEPEST:
            raise PydanticCustomError(
                "too_deep",
                "page * per_page must not pass {deepest}, as a page costs what lies before it;"
                " follow `next_cursor`, or narrow the list with a filter",
                {"deepest": DEEPEST},
            )
        return page

    @field_validator("cursor")
    @classmethod
    def _not_both(cls, cursor: str | None, info: ValidationInfo) -> str | None:
        if info.data.get("page", 1) != 1:
            raise PydanticCustomError("both", "Not together with page")
        return cursor

    @property
    def deepest_page(self) -> int:
        """The last page that may be asked for by number."""
        return DEEPEST // self.per_page

    @property
    def position(self) -> TypeAdapter[Position]:
        """What a cursor of this list holds."""
        return POSITIONS[self.sort.removeprefix("-")]

    def to_domain(self) -> ItemQuery:
        """The form that the service works with, without the cursor."""
        return ItemQuery(self.to_filter(), self.sort, self.page, self.per_page, count=self.count)


class ItemExportQuery(ItemFilterQuery):
    """Which items to export, and in which form."""

    format: Literal["ndjson", "csv"] | None = Field(
        None, description="The form, if not the one that `Accept` asks for"
    )


class ItemList(Schema):
    """One page of items, and how many there are in all."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "items": [STORED_EXAMPLE],
                "page": 1,
                "per_page": 1,
                "total": 2,
                "total_relation": "eq",
                "pages": 2,
                "next_cursor": "l2z4yDmZ6GJbMSwxXQ",
            }
        }
    )

    items: list[ItemRead]
    page: int | None = Field(description="The page's number; null for a page by cursor")
    per_page: int
    total: int | None = Field(description="Matching items; null with `count=none`")
    total_relation: Literal["eq", "gte"] | None = Field(
        description='"eq": `total` is exact; "gte": there are at least so many'
    )
    pages: int | None = Field(description="Pages that `total` fills")
    next_cursor: str | None = Field(description="To what follows; null at the end")
