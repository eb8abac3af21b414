"""The number of SQL statements that lists and exports make, whatever clients ask for."""

from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from itertools import product
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from service.crud import item as crud
from service.domain.item import ItemFilter, ItemQuery
from tests.support.statements import recording_statements

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
VALUES: dict[str, Any] = {
    "is_active": True,
    "q": "lamp",
    "price_min": Decimal(1),
    "price_max": Decimal(2),
    "created_after": NOON,
    "created_before": NOON,
    "updated_after": NOON,
}


def filters() -> Iterator[ItemFilter]:
    """Yield every combination of filters."""
    for chosen in product((False, True), repeat=len(VALUES)):
        is_set = dict(zip(VALUES, chosen, strict=True))
        yield ItemFilter(**{name: VALUES[name] for name in VALUES if is_set[name]})


def queries(sort: str, position: Any) -> Iterator[ItemQuery]:
    """Yield lists of every combination of filters, with and without a cursor and a count."""
    for wanted, after in product(filters(), (None, (position, 1))):
        yield ItemQuery(wanted, sort, after=after, count="none")
        yield ItemQuery(wanted, sort, after=after, count="capped")
        yield ItemQuery(wanted, sort, after=after, count="exact")


@pytest.mark.parametrize(
    ("sort", "position", "most"),
    # For each count, with and without a cursor: no filter, `is_active`, and all others.
    [("-id", 1, 18), ("name", "a", 12)],
)
async def test_all_combinations_of_filters_make_few_statements(
    conn: AsyncConnection, sort: str, position: Any, most: int
) -> None:
    with recording_statements(conn.engine.sync_engine) as sent:
        for query in queries(sort, position):
            await (crud.search_pages if crud.is_expensive(query) else crud.list_pages)(
                conn, [query]
            )

    selects = [statement for statement in sent if statement.startswith("SELECT")]
    assert len(selects) == 128 * 6
    assert len(set(selects)) == most


async def test_all_exports_take_one_statement(conn: AsyncConnection) -> None:
    with recording_statements(conn.engine.sync_engine) as sent:
        for wanted in filters():
            assert [batch async for batch in crud.export_items(conn, wanted)] == []

    selects = [statement for statement in sent if statement.startswith("SELECT")]
    assert len(selects) == 128
    assert len(set(selects)) == 1


async def test_searches_and_exports_are_never_planned_for_unknown_values(
    conn: AsyncConnection,
) -> None:
    """PostgreSQL otherwise makes a generic plan after five executions."""
    for _ in range(10):
        await crud.search_pages(conn, [ItemQuery(ItemFilter(q="lamp"))])
        assert [batch async for batch in crud.export_items(conn, ItemFilter(q="lamp"))] == []

    counts = await conn.execute(
        text(
            "SELECT custom_plans, generic_plans FROM pg_prepared_statements"
            " WHERE statement LIKE '%FROM items%' AND statement NOT LIKE '%pg_prepared%'"
        )
    )
    assert [tuple(row) for row in counts] == [(10, 0), (10, 0)]
