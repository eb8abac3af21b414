"""Lists of any resource: queries, positions and pages."""

from dataclasses import dataclass
from typing import Any, Generic, Literal, Protocol, TypeVar

# A position in a list: the value of the sort key, and the id.
Position = tuple[Any, int]
Count = Literal["capped", "exact", "none"]


class Stored(Protocol):
    """A stored row of any resource."""

    id: int


Row = TypeVar("Row", bound=Stored)
Filter = TypeVar("Filter")


@dataclass(slots=True)
class Query(Generic[Filter]):
    """One page of a list: its filter, order, place and way to count.

    Attributes:
        filter: a hashable dataclass; every field that is not None must hold.
        sort: name of a column; a leading minus reverses the order.
        page: number of the page, from 1; without effect if `after` is given.
        after: the position after which the page starts.
    """

    filter: Filter
    sort: str = "id"
    page: int = 1
    per_page: int = 20
    after: Position | None = None
    count: Count = "capped"

    def position(self, row: Stored) -> Position:
        """Return the position of `row` in the list."""
        return getattr(row, self.sort.removeprefix("-")), row.id


@dataclass(slots=True)
class Page(Generic[Row]):
    """The rows of one page.

    Attributes:
        has_more: whether more rows follow.
        total: number of matches: exact, a lower bound (`total_capped`), or None if not counted.
    """

    items: list[Row]
    has_more: bool
    total: int | None
    total_capped: bool = False

    @property
    def total_relation(self) -> Literal["eq", "gte"] | None:
        """Return how the number of matches compares with `total`."""
        if self.total is None:
            return None
        return "gte" if self.total_capped else "eq"
