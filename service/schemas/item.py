"""Items as clients write and read them."""

from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    StringConstraints,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
)
from pydantic.config import JsonDict
from pydantic_core import PydanticCustomError

from service.domain.item import ItemData, ItemQuery
from service.schemas.base import Int64, SafeText, Schema

# How far into a list a page may reach: the database walks over everything before it.
DEEPEST = 1_000_000
MAX_PRICE = Decimal("9999999999.99")


def _refuse_non_number(value: Any) -> Any:
    if isinstance(value, int | Decimal) and not isinstance(value, bool):
        return value
    raise PydanticCustomError("number_type", "Input should be a number")


Name = Annotated[SafeText, StringConstraints(min_length=1, max_length=255)]
Description = Annotated[SafeText, StringConstraints(max_length=10_000)]
Price = Annotated[
    Decimal,
    Field(ge=0, le=MAX_PRICE, max_digits=12, decimal_places=2),
    BeforeValidator(_refuse_non_number),
    WithJsonSchema({"type": "number", "minimum": 0, "maximum": float(MAX_PRICE)}),
]

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

    id: Int64
    name: Name
    description: Description | None
    price: Price | None
    is_active: bool
    version: Int64 = Field(ge=1, description="1, then one more with each change")
    created_at: datetime
    updated_at: datetime


class ItemListQuery(Schema):
    """Which items to list, in which order, and which page of them."""

    model_config = ConfigDict(extra="forbid", str_strip_whitespace=False)

    # Before `page`, whose validator reads it.
    per_page: Annotated[Int64, Field(ge=1, le=100)] = Field(20, description="Items on a page")
    page: Annotated[Int64, Field(ge=1)] = Field(1, description="The page, from 1")
    is_active: bool | None = Field(None, description="Only those active, or only those not")
    q: SafeText | None = Field(
        None, max_length=255, description="Part of the name, in either case, taken literally"
    )
    sort: Literal["id", "-id", "name", "-name", "price", "-price", "created_at", "-created_at"] = (
        Field("id", description="The order; with a minus its exact reverse. Ties go by id")
    )

    @field_validator("page")
    @classmethod
    def _not_too_deep(cls, page: int, info: ValidationInfo) -> int:
        if page * info.data.get("per_page", 20) > DEEPEST:
            raise PydanticCustomError(
                "too_deep",
                "page * per_page must not pass {deepest}, as a page costs what lies before it;"
                " narrow the list with a filter",
                {"deepest": DEEPEST},
            )
        return page

    def to_domain(self) -> ItemQuery:
        """The form that the service works with."""
        return ItemQuery(self.page, self.per_page, self.is_active, self.q, self.sort)


class ItemList(Schema):
    """One page of items, and how many there are in all."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "items": [STORED_EXAMPLE],
                "page": 1,
                "per_page": 20,
                "total": 1,
                "total_relation": "eq",
                "pages": 1,
            }
        }
    )

    items: list[ItemRead]
    page: int
    per_page: int
    total: int = Field(description="Matching items, counted up to 10,000")
    total_relation: Literal["eq", "gte"] = Field(
        description='"eq": `total` is exact; "gte": there are at least so many'
    )
    pages: int = Field(description="Pages that `total` fills")
