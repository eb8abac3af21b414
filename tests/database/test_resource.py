"""What resources share, with a resource that is not an item: fields of all types, NULL or not."""

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, ClassVar, cast

import pytest
from sqlalchemy import Index, Table
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from service.crud import listing, rows
from service.crud.filters import after, at_least, at_most, before, flag
from service.crud.resource import Resource, columns_of, itself
from service.domain.listing import Page, Query
from service.models.base import (
    MAX_PRICE,
    MAX_TIME,
    Base,
    Money,
    ResourceMixin,
    SortedText,
    int_key,
    time_key,
)

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
MAX_INT = 2**63 - 1


class OwnBase(DeclarativeBase):
    """A base with tables that no migration creates."""

    type_annotation_map: ClassVar[dict[Any, Any]] = Base.type_annotation_map


class OrderTable(ResourceMixin, OwnBase):
    __tablename__ = "orders"

    customer: Mapped[SortedText]
    lines: Mapped[int]
    quantity: Mapped[int | None] = mapped_column()
    unit_price: Mapped[Money]
    shipped: Mapped[bool]
    at: Mapped[datetime | None] = mapped_column()
    note: Mapped[str | None]

    __table_args__ = (
        Index("ix_orders_quantity_key_id", int_key(quantity), "id"),
        Index("ix_orders_at_key_id", time_key(at), "id"),
    )


@dataclass(slots=True)
class Order:
    id: int
    customer: str
    lines: int
    quantity: int | None
    unit_price: Decimal
    shipped: bool
    at: datetime | None
    note: str | None
    version: int
    created_at: datetime
    updated_at: datetime


@dataclass(slots=True, unsafe_hash=True)
class OrderFilter:
    shipped: bool | None = None
    lines_max: int | None = None
    quantity_min: int | None = None
    quantity_max: int | None = None
    unit_price_min: Decimal | None = None
    at_after: datetime | None = None
    at_before: datetime | None = None


table = cast(Table, OrderTable.__table__)
ORDERS = Resource(
    table=table,
    make=Order,
    columns=columns_of(table, Order),
    content=("customer", "lines", "quantity", "unit_price", "shipped", "at", "note"),
    defaults={"quantity": None, "shipped": False, "at": None, "note": None},
    sorts={
        "id": itself,
        "customer": itself,
        "lines": itself,
        "quantity": int_key,
        "unit_price": itself,
        "at": time_key,
    },
    filters=(
        flag("shipped", table.c.shipped),
        at_most("lines_max", table.c.lines),
        at_least("quantity_min", int_key(table.c.quantity), MAX_INT),
        at_most("quantity_max", int_key(table.c.quantity)),
        at_least("unit_price_min", table.c.unit_price, MAX_PRICE),
        after("at_after", time_key(table.c.at), MAX_TIME),
        before("at_before", time_key(table.c.at)),
    ),
)
NEW: list[dict[str, Any]] = [
    {
        "customer": f"Customer {number % 4}",
        "lines": number % 3,
        "quantity": [None, 0, -5, MAX_INT, None, 7][number % 6],
        "unit_price": Decimal(number % 5),
        "shipped": number % 2 == 0,
        "at": [None, NOON, NOON - timedelta(microseconds=1), None][number % 4],
        "note": None,
    }
    for number in range(20)
]


@pytest.fixture
async def conn(empty_database_url: str) -> AsyncIterator[AsyncConnection]:
    """A connection in a transaction, to a database with the table of orders."""
    engine = create_async_engine(
        empty_database_url.replace("postgresql://", "postgresql+asyncpg://")
    )
    async with engine.connect() as conn:
        await conn.run_sync(OwnBase.metadata.create_all)
        yield conn
    await engine.dispose()


async def search(conn: AsyncConnection, query: Query[OrderFilter]) -> Page[Order]:
    """Return one page, as the router does."""
    is_expensive = listing.is_expensive(ORDERS, query)
    function = listing.search_pages if is_expensive else listing.list_pages
    (page,) = await function(conn, ORDERS, [query])
    return page


def matching(orders: list[Order], wanted: OrderFilter) -> list[int]:
    """Return the ids of the orders that match, as the filters are documented."""

    def checks(order: Order) -> Iterator[bool]:
        if wanted.shipped is not None:
            yield order.shipped == wanted.shipped
        if wanted.lines_max is not None:
            yield order.lines <= wanted.lines_max
        if wanted.quantity_min is not None:
            yield order.quantity is not None and order.quantity >= wanted.quantity_min
        if wanted.quantity_max is not None:
            yield order.quantity is not None and order.quantity <= wanted.quantity_max
        if wanted.unit_price_min is not None:
            yield order.unit_price >= wanted.unit_price_min
        if wanted.at_after is not None:
            yield order.at is not None and order.at > wanted.at_after
        if wanted.at_before is not None:
            yield order.at is not None and order.at < wanted.at_before

    return [order.id for order in orders if all(checks(order))]


async def test_rows_are_stored_copied_changed_and_deleted(conn: AsyncConnection) -> None:
    one, two = await rows.create_many(conn, ORDERS, NEW[:2])
    await rows.copy_many(conn, ORDERS, NEW[2:3])
    (stored,) = await rows.get_many(conn, ORDERS, [two.id])
    (changed,) = await rows.update_many(conn, ORDERS, [one.id], {"at": NOON}, [1])

    assert stored == two
    assert {name: getattr(one, name) for name in NEW[0]} == NEW[0]
    assert changed
    assert (changed.at, changed.version) == (NOON, 2)
    assert await rows.update_many(conn, ORDERS, [one.id], {"at": None}, [1]) == [None]
    assert await rows.delete_many(conn, ORDERS, [one.id, two.id], [1]) == {two.id}


@pytest.mark.parametrize("minus", ["", "-"])
@pytest.mark.parametrize("key", ORDERS.sorts)
async def test_cursors_lead_through_every_sort_with_null_last(
    conn: AsyncConnection, key: str, minus: str
) -> None:
    orders = await rows.create_many(conn, ORDERS, NEW)
    found: list[Order] = []
    query = Query(OrderFilter(), minus + key, per_page=3)
    while rest := (await search(conn, query)).items:
        found += rest
        query.after = query.position(rest[-1])

    def place(order: Order) -> tuple[bool, Any, int]:
        value = getattr(order, key)
        nothing = NOON if key == "at" else 0
        return value is None, nothing if value is None else value, order.id

    assert found == sorted(orders, key=place, reverse=bool(minus))


@pytest.mark.parametrize(
    "wanted",
    [
        OrderFilter(shipped=True),
        OrderFilter(lines_max=1),
        OrderFilter(quantity_min=0),
        OrderFilter(quantity_max=MAX_INT),
        OrderFilter(unit_price_min=Decimal(3)),
        OrderFilter(at_after=NOON - timedelta(microseconds=1)),
        OrderFilter(at_before=NOON),
        OrderFilter(shipped=False, quantity_min=-5, at_before=NOON + timedelta(days=1)),
    ],
)
async def test_filters_select_rows_of_lists_and_exports(
    conn: AsyncConnection, wanted: OrderFilter
) -> None:
    expected = matching(await rows.create_many(conn, ORDERS, NEW), wanted)
    exported = [batch async for batch in listing.export_rows(conn, ORDERS, wanted)]

    assert 0 < len(expected) < len(NEW)
    for query in (Query(wanted), Query(wanted, count="exact")):
        page = await search(conn, query)
        assert ([order.id for order in page.items], page.total) == (expected, len(expected))
    assert [order.id for batch in exported for order in batch] == expected
