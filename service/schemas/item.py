"""Items as clients write, read and list them."""

from datetime import datetime
from typing import Any, Literal

from pydantic import ConfigDict, Field, StrictBool, TypeAdapter
from pydantic.config import JsonDict

from service.domain.item import ItemData, ItemFilter, ItemQuery
from service.domain.listing import Position
from service.schemas.base import QuerySchema, Schema
from service.schemas.listing import (
    INT_POSITION,
    PRICE_POSITION,
    SORT,
    TEXT_POSITION,
    TIME_POSITION,
    Bulk,
    Created,
    Page,
    PageQuery,
    page_example,
)
from service.schemas.types import (
    LongText,
    Price,
    PriceBound,
    SafeText,
    ShortText,
    StoredId,
    Time,
    Version,
)

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
    "created_at": "2026-11-22T09:30:00.123456Z",
    "updated_at": "2026-11-22T09:30:00.123456Z",
}


class ItemCreate(Schema):
    """The content of a new item."""

    model_config = ConfigDict(json_schema_extra={"example": EXAMPLE})

    name: ShortText = Field(description="The name, after trimming")
    description: LongText | None = Field(None, description="A description")
    price: Price | None = Field(None, description="The price, with at most two decimals")
    is_active: StrictBool = Field(True, description="Whether the item is offered")

    def to_domain(self) -> ItemData:
        """Return the domain object."""
        return ItemData(self.name, self.description, self.price, self.is_active)


class ItemReplace(ItemCreate):
    """The new content of an item; omitted fields return to their defaults."""


class ItemUpdate(Schema):
    """Changes to an item: omitted fields stay, and null clears a nullable field."""

    model_config = ConfigDict(json_schema_extra={"example": {"price": 24.99}})

    # The factories only make a field optional: a field that was not sent is never read.
    name: ShortText = Field(default_factory=str, description="The name, after trimming")
    description: LongText | None = Field(None, description="A description")
    price: Price | None = Field(None, description="The price, with at most two decimals")
    is_active: StrictBool = Field(default_factory=bool, description="Whether the item is offered")

    def changes(self) -> dict[str, Any]:
        """Return the fields that were sent, by column."""
        return self.model_dump(exclude_unset=True)


class ItemRead(Schema):
    """A stored item."""

    model_config = ConfigDict(json_schema_extra={"example": STORED_EXAMPLE})

    id: StoredId
    name: ShortText
    description: LongText | None
    price: Price | None
    is_active: bool
    version: Version
    created_at: datetime
    updated_at: datetime


class ItemBulk(Bulk[ItemCreate]):
    """Items to create, all or none."""

    model_config = ConfigDict(json_schema_extra={"example": {"items": [EXAMPLE]}})


class ItemsCreated(Created[ItemRead]):
    """The stored items, in the order of the request."""

    model_config = ConfigDict(json_schema_extra={"example": {"items": [STORED_EXAMPLE]}})


class ItemFilterQuery(QuerySchema):
    """Filters of items; all that are given must hold."""

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
    "price": PRICE_POSITION,
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


class ItemList(Page[ItemRead]):
    """One page of items, and the number of matches."""

    model_config = ConfigDict(json_schema_extra={"example": page_example(STORED_EXAMPLE)})
