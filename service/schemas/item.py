"""Items as clients write and read them."""

from datetime import datetime
from typing import Any

from pydantic import ConfigDict, Field, StrictBool
from pydantic.config import JsonDict

from service.domain.item import ItemData
from service.schemas.base import Schema, unset
from service.schemas.listing import Bulk, Created, Page, page_example
from service.schemas.types import LongText, Price, ShortText, StoredId, Version

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
    description: LongText | None = Field(None, description="The description")
    price: Price | None = Field(None, description="The price, with at most two decimals")
    is_active: StrictBool = Field(True, description="Whether the item is active")

    def to_domain(self) -> ItemData:
        """Return the domain object."""
        return ItemData(self.name, self.description, self.price, self.is_active)


class ItemReplace(ItemCreate):
    """The new content of an item; omitted fields return to their defaults."""


class ItemUpdate(Schema):
    """Changes to an item: omitted fields stay, and null clears a nullable field."""

    model_config = ConfigDict(json_schema_extra={"example": {"price": 29.99}})

    name: ShortText = Field(default_factory=unset, description="The name, after trimming")
    description: LongText | None = Field(None, description="The description")
    price: Price | None = Field(None, description="The price, with at most two decimals")
    is_active: StrictBool = Field(default_factory=unset, description="Whether the item is active")

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


class ItemList(Page[ItemRead]):
    """One page of items, and the number of matches."""

    model_config = ConfigDict(json_schema_extra={"example": page_example(STORED_EXAMPLE)})
