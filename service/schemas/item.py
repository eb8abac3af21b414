"""Items as clients write and read them."""

from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    StringConstraints,
    WithJsonSchema,
)
from pydantic.config import JsonDict
from pydantic_core import PydanticCustomError

from service.domain.item import MAX_PRICE, ItemData
from service.schemas.base import SafeText, Schema

CENT = Decimal("0.01")


def _refuse_non_number(value: Any) -> Any:
    if isinstance(value, int | Decimal) and not isinstance(value, bool):
        return value
    raise PydanticCustomError("number_type", "Input should be a number")


def _to_cents(value: Decimal) -> Decimal:
    # One spelling for each price; the driver cannot send one as small as 0e-20000.
    return abs(value).quantize(CENT)


# The white space that trimming removes: Unicode's, more than \s in a regular expression.
WHITE_SPACE = r"\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
Name = Annotated[
    SafeText,
    StringConstraints(min_length=1, max_length=255),
    # A name of white space alone is empty after trimming.
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
# A price as the database stores it; its users define the accepted spellings.
Cents = Annotated[
    Decimal,
    Field(ge=0, le=MAX_PRICE, max_digits=12, decimal_places=2),
    AfterValidator(_to_cents),
    WithJsonSchema({"type": "number", "minimum": 0, "maximum": float(MAX_PRICE)}),
]
Price = Annotated[Cents, BeforeValidator(_refuse_non_number)]

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
    """The content of a new item."""

    model_config = ConfigDict(json_schema_extra={"example": EXAMPLE})

    name: Name = Field(description="The name, after trimming")
    description: Description | None = Field(None, description="A description")
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
    name: Name = Field(default_factory=str, description="The name, after trimming")
    description: Description | None = Field(None, description="A description")
    price: Price | None = Field(None, description="The price, with at most two decimals")
    is_active: StrictBool = Field(default_factory=bool, description="Whether the item is offered")

    def changes(self) -> dict[str, Any]:
        """Return the fields that were sent, by column."""
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
        description="1, plus one with each change",
        json_schema_extra={"format": "int64"},
    )
    created_at: datetime
    updated_at: datetime


class ItemBulk(Schema):
    """Items to create, all or none."""

    model_config = ConfigDict(json_schema_extra={"example": {"items": [EXAMPLE]}})

    items: list[ItemCreate] = Field(
        min_length=1, max_length=1000, description="The items, stored in this order"
    )


class ItemsCreated(Schema):
    """The stored items, in the order of the request."""

    model_config = ConfigDict(json_schema_extra={"example": {"items": [STORED_EXAMPLE]}})

    items: list[ItemRead]
