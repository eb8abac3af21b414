"""Items: sets in, sets out."""

from collections.abc import AsyncIterator, Hashable, Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from sqlalchemy.sql.dml import ReturningDelete, ReturningUpdate

from service.crud import item_list as lists
from service.crud.item_statements import (
    CREATE_MANY,
    DEACTIVATE_MANY,
    DELETE_MANY,
    GET_MANY,
    OF_A_VERSION,
    UPDATE_MANY,
)
from service.domain.item import Item, ItemFilter, ItemPage, ItemQuery
from service.models.item import items

Connection = AsyncConnection | AsyncSession

MAX_INEXPENSIVE_SKIP = 1000  # rows that a page may skip and still be inexpensive
EXPORT_BATCH = 500  # rows fetched at a time


async def get_many(conn: Connection, ids: Sequence[int]) -> list[Item | None]:
    """Return the items with these ids, in the order of `ids`; None for a missing one."""
    rows = (await conn.execute(GET_MANY, {"ids": ids})).all()
    found = {row.id: Item(*row) for row in rows}
    return [found.get(id_) for id_ in ids]


async def create_many(conn: Connection, rows: Sequence[Mapping[str, Any]]) -> list[Item]:
    """Store items, all or none; return them in the order of `rows`.

    Args:
        rows: each with a `name`, and optionally `description`, `price` and `is_active`.

    Raises:
        IntegrityError, DBAPIError: a row violates a constraint, or does not fit its column.
    """
    created = await conn.execute(
        CREATE_MANY,
        {
            "names": [row["name"] for row in rows],
            "descriptions": [row.get("description") for row in rows],
            "prices": [row.get("price") for row in rows],
            "are_active": [row.get("is_active", True) for row in rows],
        },
    )
    return sorted([Item(*row) for row in created.all()], key=lambda item: item.id)


async def copy_many(conn: AsyncConnection, rows: Iterable[Mapping[str, Any]]) -> None:
    """Store a large number of items by COPY, without returning them.

    Args:
        rows: as for `create_many`.

    Raises:
        asyncpg.PostgresError: a row violates a constraint, or does not fit its column.
    """
    # A batch may take longer than a request. SQLAlchemy, which does not see COPY, starts the
    # transaction with this statement.
    await conn.execute(text("SET LOCAL statement_timeout = 0"))
    driver = (await conn.get_raw_connection()).driver_connection
    assert driver is not None
    await driver.copy_records_to_table(
        items.name,
        records=[
            (row["name"], row.get("description"), row.get("price"), row.get("is_active", True))
            for row in rows
        ],
        columns=["name", "description", "price", "is_active"],
    )


async def update_many(
    conn: Connection,
    ids: Sequence[int],
    values: Mapping[str, Any],
    versions: Sequence[int] | None = None,
) -> list[Item | None]:
    """Set `values` in the items and increment their versions.

    Args:
        values: at least one, by column.
        versions: change only items that have one of these.

    Returns:
        The changed items, in the order of `ids`; None for one that was not changed.

    Raises:
        IntegrityError, DBAPIError: a value violates a constraint, or does not fit its column.
    """
    rows = await _write(conn, UPDATE_MANY, ids, versions, values)
    found = {row.id: Item(*row) for row in rows}
    return [found.get(id_) for id_ in ids]


async def deactivate_many(
    conn: Connection, ids: Sequence[int], versions: Sequence[int] | None = None
) -> set[int]:
    """Deactivate the items; an inactive one does not change.

    Returns the ids of those that exist and have one of the `versions`.
    """
    return {row.id for row in await _write(conn, DEACTIVATE_MANY, ids, versions)}


async def delete_many(
    conn: Connection, ids: Sequence[int], versions: Sequence[int] | None = None
) -> set[int]:
    """Delete the items.

    Returns the ids of those that existed and had one of the `versions`.
    """
    return {row.id for row in await _write(conn, DELETE_MANY, ids, versions)}


async def _write(
    conn: Connection,
    statement: ReturningUpdate[Any] | ReturningDelete[Any],
    ids: Sequence[int],
    versions: Sequence[int] | None,
    values: Mapping[str, Any] | None = None,
) -> Sequence[Any]:
    """Execute `statement` for the chosen items and return its rows.

    PostgreSQL checks the condition again for a row whose lock it waited for.
    """
    parameters = {**(values or {}), "ids": ids}
    if versions is not None:
        statement = statement.where(OF_A_VERSION)
        parameters["versions"] = versions
    rows: Sequence[Any] = (await conn.execute(statement, parameters)).all()
    return rows


def shape(query: ItemQuery) -> Hashable:
    """Return what queries must share to be one statement: all but the place of the page."""
    return query.filter, query.sort, query.count, query.after is None


def is_expensive(query: ItemQuery) -> bool:
    """Return whether the database may read many more rows than it returns."""
    if query.count == "exact" or (query.page - 1) * query.per_page > MAX_INEXPENSIVE_SKIP:
        return True
    asked = lists.asked(query.filter)
    # One index serves this filter and this sort together.
    return bool(asked) and (asked != ("is_active",) or query.sort.lstrip("-") != "id")


async def list_pages(conn: Connection, queries: Sequence[ItemQuery]) -> list[ItemPage]:
    """Return the page of each query; queries of one shape take one statement."""
    pages: dict[int, ItemPage] = {}
    by_shape: dict[Hashable, list[int]] = {}
    for index, query in enumerate(queries):
        by_shape.setdefault(shape(query), []).append(index)
    for indexes in by_shape.values():
        alike = [queries[index] for index in indexes]
        pages.update(zip(indexes, await _list_alike(conn, alike), strict=True))
    return [pages[index] for index in range(len(queries))]


async def _list_alike(conn: Connection, queries: Sequence[ItemQuery]) -> list[ItemPage]:
    first = queries[0]
    after = [lists.after(query) for query in queries if query.after]
    answer = await conn.execute(
        lists.page_set(lists.asked(first.filter), first.sort, first.count, bool(after)),
        {
            **lists.values(first.filter),
            "sizes": [query.per_page + (not lists.tells_more(query)) for query in queries],
            "skips": [(query.page - 1) * query.per_page for query in queries],
            "keys": [key for key, _ in after],
            "ids": [id_ for _, id_ in after],
        },
    )
    rows = answer.all()
    found: list[list[Item]] = [[] for _ in queries]
    for row in rows:  # the ordinal of the query, the total, and an item
        if row[2] is not None:  # an empty page is one row of NULLs
            found[row[0] - 1].append(Item(*row[2:]))
    total = rows[0][1]
    return [_page_of(query, page, total) for query, page in zip(queries, found, strict=True)]


async def search_pages(conn: Connection, queries: Sequence[ItemQuery]) -> list[ItemPage]:
    """Return pages as `list_pages` does, in a transaction, with plans for the given values."""
    # After a few calls PostgreSQL would use a generic plan, which may walk a whole index for the
    # few rows that match.
    await conn.execute(text("SET LOCAL plan_cache_mode = force_custom_plan"))
    return await list_pages(conn, queries)


async def export_items(conn: AsyncConnection, wanted: ItemFilter) -> AsyncIterator[list[Item]]:
    """Yield all matching items by id, in batches of one snapshot.

    It runs in a transaction and holds its connection.
    """
    # It waits for its client between two batches; the caller bounds that time.
    await conn.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))
    statement = lists.everything(lists.asked(wanted))
    options = {"yield_per": EXPORT_BATCH}
    async with conn.stream(statement, lists.values(wanted), execution_options=options) as rows:
        async for batch in rows.partitions():
            yield [Item(*row) for row in batch]


def _page_of(query: ItemQuery, found: list[Item], total: int | None) -> ItemPage:
    """Return the page; `found` has one more item if more follow and the total does not tell."""
    if lists.tells_more(query):
        has_more = (total or 0) > query.page * query.per_page
    else:
        has_more = len(found) > query.per_page
    is_capped = query.count == "capped" and (total or 0) > lists.COUNT_CAP
    return ItemPage(
        found[: query.per_page],
        has_more=has_more,
        total=lists.COUNT_CAP if is_capped else total,
        total_capped=is_capped,
    )
