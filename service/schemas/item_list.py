"""Lists of items: what clients ask for, and what they get."""

import re
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationInfo,
    field_validator,
)
from pydantic_core import PydanticCustomError

from service.domain.item import ItemFilter, ItemQuery, Position
from service.schemas.base import INT64_MAX, Int64, PlainSpelling, SafeText, Schema, Time
from service.schemas.item import STORED_EXAMPLE, Cents, ItemRead

# How far into a list a page may reach: the database walks over everything before it.
DEEPEST = 1_000_000
PLAIN_DECIMAL = re.compile(r"[0-9]+(\.[0-9]+)?")


def _refuse_non_decimal(value: Any) -> Any:
    # Pydantic reads 1_0 and 1e1 as 10.
    if not isinstance(value, str) or not PLAIN_DECIMAL.fullmatch(value):
        raise PydanticCustomError("decimal_parsing", "Input should be a valid decimal")
    return value


PriceBound = Annotated[Cents, BeforeValidator(_refuse_non_decimal)]

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
