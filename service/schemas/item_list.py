"""Lists of items: their queries and their pages."""

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

# Largest `page * per_page`: the database reads every row before a page.
MAX_DEPTH = 1_000_000
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
# For each sort key, the type of a cursor's position: the key and the id.
PlaceId = Annotated[Int64, Field(strict=True)]
POSITIONS: dict[str, TypeAdapter[Position]] = {
    "id": TypeAdapter(tuple[PlaceId, PlaceId]),
    "name": TypeAdapter(tuple[SafeText, PlaceId]),
    "price": TypeAdapter(tuple[PriceBound | None, PlaceId]),
    "created_at": TypeAdapter(tuple[Time, PlaceId]),
    "updated_at": TypeAdapter(tuple[Time, PlaceId]),
}


class ItemFilterQuery(Schema):
    """Filters of items; all that are given must hold."""

    model_config = ConfigDict(extra="forbid", str_strip_whitespace=False)

    is_active: bool | None = Field(None, description="Only active items, or only inactive ones")
    q: SafeText | None = Field(
        None,
        max_length=255,
        description="A literal part of the name, in either case",
        examples=["lamp"],
    )
    price_min: PriceBound | None = Field(None, description="The lowest price, included")
    price_max: PriceBound | None = Field(None, description="The highest price, included")
    created_after: Time | None = Field(None, description="Only items created after this time")
    created_before: Time | None = Field(None, description="Only items created before this time")
    updated_after: Time | None = Field(None, description="Only items changed after this time")

    def to_filter(self) -> ItemFilter:
        """Return the domain object."""
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
    """Filters, order and page of a list."""

    # Before `page`, whose validator reads it. The bounds come before the validator, or the OpenAPI
    # document omits them.
    per_page: Annotated[int, Field(ge=1, le=100), PlainSpelling] = Field(
        20, description="Number of items on a page"
    )
    page: Annotated[
        int, Field(ge=1, le=INT64_MAX, json_schema_extra={"maximum": MAX_DEPTH}), PlainSpelling
    ] = Field(1, description="Number of the page, from 1")
    cursor: SafeText | None = Field(
        None,
        max_length=3000,
        description="Instead of `page`: the `next_cursor` of the previous page, with the same"
        " filters and sort",
    )
    sort: Sort = Field(
        "id", description="The order; a leading minus reverses it. Ties are sorted by id"
    )
    count: Literal["capped", "exact", "none"] = Field(
        "capped",
        description="How to count the matches: up to 10,000, exactly (its time grows with their"
        " number), or not at all",
    )

    @field_validator("page")
    @classmethod
    def _not_too_deep(cls, page: int, info: ValidationInfo) -> int:
        if page * info.data.get("per_page", 20) > MAX_DEPTH:
            raise PydanticCustomError(
                "too_deep",
                "page * per_page must not exceed {deepest}; follow `next_cursor`, or use a filter",
                {"deepest": MAX_DEPTH},
            )
        return page

    @field_validator("cursor")
    @classmethod
    def _not_both(cls, cursor: str | None, info: ValidationInfo) -> str | None:
        if info.data.get("page", 1) != 1:
            raise PydanticCustomError("both", "cursor and page exclude each other")
        return cursor

    @property
    def deepest_page(self) -> int:
        """Return the largest page number that is allowed."""
        return MAX_DEPTH // self.per_page

    @property
    def position(self) -> TypeAdapter[Position]:
        """Return the type of the position in a cursor of this list."""
        return POSITIONS[self.sort.removeprefix("-")]

    def to_domain(self) -> ItemQuery:
        """Return the domain object, without the cursor."""
        return ItemQuery(self.to_filter(), self.sort, self.page, self.per_page, count=self.count)


class ItemExportQuery(ItemFilterQuery):
    """Filters and format of an export."""

    format: Literal["ndjson", "csv"] | None = Field(
        None, description="The format; by default the one that `Accept` prefers"
    )


class ItemList(Schema):
    """One page of items, and the number of matches."""

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
    page: int | None = Field(description="Number of the page; null for a cursor page")
    per_page: int
    total: int | None = Field(description="Number of matches; null with `count=none`")
    total_relation: Literal["eq", "gte"] | None = Field(
        description='"eq": `total` is exact; "gte": it is a lower bound'
    )
    pages: int | None = Field(description="Number of pages for `total`")
    next_cursor: str | None = Field(description="The cursor of the next page; null at the end")
