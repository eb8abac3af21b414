"""Lists of items: their filters and sorts."""

from typing import Literal

from pydantic import Field, TypeAdapter

from service.domain.item import ItemFilter, ItemQuery
from service.domain.listing import Position
from service.schemas.base import QuerySchema
from service.schemas.listing import (
    INT_POSITION,
    PRICE_OR_NULL_POSITION,
    SORT,
    TEXT_POSITION,
    TIME_POSITION,
    PageQuery,
)
from service.schemas.types import PriceBound, SafeText, Time


class ItemFilterQuery(QuerySchema):
    """Filters of items; all that are given must hold."""

    is_active: bool | None = Field(None, description="Only where `is_active` has this value")
    q: SafeText | None = Field(
        None,
        max_length=255,
        description="A literal part of the name, in either case",
        examples=["lamp"],
    )
    price_min: PriceBound | None = Field(None, description="The lowest `price`, included")
    price_max: PriceBound | None = Field(None, description="The highest `price`, included")
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


class ItemExportQuery(ItemFilterQuery):
    """Filters and format of an export."""

    format: Literal["ndjson", "csv"] | None = Field(
        None, description="The format; by default the one that `Accept` prefers"
    )


ItemSort = Literal[
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
POSITIONS: dict[str, TypeAdapter[Position]] = {
    "id": INT_POSITION,
    "name": TEXT_POSITION,
    "price": PRICE_OR_NULL_POSITION,
    "created_at": TIME_POSITION,
    "updated_at": TIME_POSITION,
}


class ItemListQuery(PageQuery, ItemFilterQuery):
    """Filters, order and page of a list."""

    sort: ItemSort = Field("id", description=SORT)

    @property
    def position(self) -> TypeAdapter[Position]:
        """Return the type of the position in a cursor of this list."""
        return POSITIONS[self.sort.removeprefix("-")]

    def to_domain(self) -> ItemQuery:
        """Return the domain object, without the cursor."""
        return ItemQuery(self.to_filter(), self.sort, self.page, self.per_page, count=self.count)
