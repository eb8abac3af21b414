"""An item, what a caller says of one, and what a caller asks of many."""

from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal

MAX_PRICE = Decimal("9999999999.99")

# A place in a list: the value of the sort key, and the id.
Position = tuple[Any, int]

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


@dataclass(slots=True, unsafe_hash=True)
class ItemFilter:
    """Which items: those for which all that is not None holds. Prices include their bounds."""

    is_active: bool | None = None
    q: str | None = None
    price_min: Decimal | None = None
    price_max: Decimal | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None
    updated_after: datetime | None = None


@dataclass(slots=True)
class ItemQuery:
    """One page of a list: which items, in which order, from where, and how to count them all.

    The page is the one numbered `page`, from 1; or, if there is an `after`, what follows that
    position.
    """

    filter: ItemFilter = field(default_factory=ItemFilter)
    sort: str = "id"
    page: int = 1
    per_page: int = 20
    after: Position | None = None
    count: Literal["capped", "exact", "none"] = "capped"

    def position(self, item: Item) -> Position:
        """Where `item` stands in the list."""
        return getattr(item, self.sort.removeprefix("-")), item.id


@dataclass(slots=True)
class ItemPage:
    """The items of one page, whether more follow, and how many match in all.

    `total` is exact, or a lower bound (`total_capped`), or None where nobody counted.
    """

    items: list[Item]
    has_more: bool
    total: int | None
    total_capped: bool = False

    @property
    def total_relation(self) -> Literal["eq", "gte"] | None:
        """How many there are, compared with `total`."""
        if self.total is None:
            return None
        return "gte" if self.total_capped else "eq"
