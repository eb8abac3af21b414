"""An item, what a caller says of one, and what a caller asks of many."""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

# With slots an instance takes a third less memory. Frozen would be nicer still, but is slower to
# make, as each member then goes through object.__setattr__.


@dataclass(slots=True)
class ItemData:
    """What a caller decides about an item."""

    name: str
    description: str | None
    price: Decimal | None
    is_active: bool

    def to_dict(self) -> dict[str, Any]:
        """The mapping that crud takes, member by member: `dataclasses.asdict` is far slower."""
        return {
            "name": self.name,
            "description": self.description,
            "price": self.price,
            "is_active": self.is_active,
        }


@dataclass(slots=True)
class Item:
    """A stored item; the members stand in the order in which crud selects the columns."""

    id: int
    name: str
    description: str | None
    price: Decimal | None
    is_active: bool
    version: int
    created_at: datetime
    updated_at: datetime


@dataclass(slots=True)
class ItemQuery:
    """One page of a list: which items, in which order. `page` counts from 1."""

    page: int = 1
    per_page: int = 20
    is_active: bool | None = None
    q: str | None = None
    sort: str = "id"


@dataclass(slots=True)
class ItemPage:
    """The items of one page and how many match in all: exactly, or at least (`total_capped`)."""

    items: list[Item]
    total: int
    total_capped: bool
