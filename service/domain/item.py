"""Items, their content, and queries for them."""

from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal

MAX_PRICE = Decimal("9999999999.99")

# A position in a list: the value of the sort key, and the id.
Position = tuple[Any, int]

# With slots an instance takes a third less memory. Frozen instances are slower to create, as each
# field then goes through object.__setattr__.


@dataclass(slots=True)
class ItemData:
    """The content of an item, which clients write."""

    name: str
    description: str | None
    price: Decimal | None
    is_active: bool

    def to_dict(self) -> dict[str, Any]:
        """Return the mapping that crud takes; `dataclasses.asdict` is five times slower."""
        return {
            "name": self.name,
            "description": self.description,
            "price": self.price,
            "is_active": self.is_active,
        }


@dataclass(slots=True)
class Item:
    """A stored item; its fields have the order of the columns that crud selects."""

    id: int
    name: str
    description: str | None
    price: Decimal | None
    is_active: bool
    version: int
    created_at: datetime
    updated_at: datetime


@dataclass(slots=True, unsafe_hash=True)
class ItemFilter:
    """The items to select: every condition that is not None must hold. Bounds are included."""

    is_active: bool | None = None
    q: str | None = None
    price_min: Decimal | None = None
    price_max: Decimal | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None
    updated_after: datetime | None = None


@dataclass(slots=True)
class ItemQuery:
    """One page of a list: its filter, order, place and way to count.

    Attributes:
        page: number of the page, from 1; without effect if `after` is given.
        after: the position after which the page starts.
    """

    filter: ItemFilter = field(default_factory=ItemFilter)
    sort: str = "id"
    page: int = 1
    per_page: int = 20
    after: Position | None = None
    count: Literal["capped", "exact", "none"] = "capped"

    def position(self, item: Item) -> Position:
        """Return the position of `item` in the list."""
        return getattr(item, self.sort.removeprefix("-")), item.id


@dataclass(slots=True)
class ItemPage:
    """The items of one page.

    Attributes:
        has_more: whether more items follow.
        total: number of matches: exact, a lower bound (`total_capped`), or None if not counted.
    """

    items: list[Item]
    has_more: bool
    total: int | None
    total_capped: bool = False

    @property
    def total_relation(self) -> Literal["eq", "gte"] | None:
        """Return how the number of matches compares with `total`."""
        if self.total is None:
            return None
        return "gte" if self.total_capped else "eq"
