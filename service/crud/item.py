"""Items: sets in, sets out."""

from collections.abc import AsyncIterator, Hashable, Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    Numeric,
    Text,
    any_,
    bindparam,
    case,
    column,
    delete,
    func,
    insert,
    select,
    text,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from sqlalchemy.sql.dml import ReturningDelete, ReturningUpdate

from service.crud import item_list as lists
from service.crud.item_list import COLUMNS
from service.domain.item import Item, ItemFilter, ItemPage, ItemQuery
from service.models.item import items

Connection = AsyncConnection | AsyncSession

FAR = 1000  # rows that a page may skip and still be cheap
EXPORT_BATCH = 500  # rows that come from the database at once

CHOSEN = items.c.id == any_(bindparam("ids", type_=ARRAY(BigInteger)))
OF_A_VERSION = items.c.version == any_(bindparam("versions", type_=ARRAY(BigInteger)))

GET_MANY = select(*COLUMNS).where(CHOSEN)
# What else it sets is given when it is executed.
UPDATE_MANY = (
    update(items)
    .where(CHOSEN)
    .values(version=items.c.version + 1, updated_at=func.now())
    .returning(*COLUMNS)
)
DEACTIVATE_MANY = (
    update(items)
    .where(CHOSEN)
    .values(
        is_active=False,
        version=case((items.c.is_active, items.c.version + 1), else_=items.c.version),
        updated_at=case((items.c.is_active, func.now()), else_=items.c.updated_at),
    )
    .returning(items.c.id)
)
DELETE_MANY = delete(items).where(CHOSEN).returning(items.c.id)

_given = (
    func.unnest(
        bindparam("names", type_=ARRAY(Text)),
        bindparam("descriptions", type_=ARRAY(Text)),
        bindparam("prices", type_=ARRAY(Numeric)),
        bindparam("are_active", type_=ARRAY(Boolean)),
    )
    .table_valued(
        column("name", Text),
        column("description", Text),
        column("price", Numeric),
        column("is_active", Boolean),
        with_ordinality="ordinal",
        name="given",
    )
    .render_derived()
)
# Ids are drawn after the sort, so they grow in the order of the rows given.
CREATE_MANY = (
    insert(items)
    .from_select(
        [items.c.name, items.c.description, items.c.price, items.c.is_active],
        select(_given.c.name, _given.c.description, _given.c.price, _given.c.is_active).order_by(
            _given.c.ordinal
        ),
    )
    .returning(*COLUMNS)
)


async def get_many(conn: Connection, ids: Sequence[int]) -> list[Item | None]:
    """The items with these ids, each at its id's place; None where there is none."""
    rows = (await conn.execute(GET_MANY, {"ids": ids})).all()
    found = {row.id: Item(*row) for row in rows}
    return [found.get(id_) for id_ in ids]


async def create_many(conn: Connection, rows: Sequence[Mapping[str, Any]]) -> list[Item]:
    """Store the items described; all or none. They come back in the order given.

    A row needs a `name`; `description`, `price` and `is_active` fall back to the defaults.

    Raises:
        IntegrityError, DBAPIError: a row breaks a constraint, or does not fit its column.
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
    """Store items through COPY: for very many, of which none is needed back.

    A row as for `create_many`. Raises asyncpg's errors, not SQLAlchemy's: COPY is the driver's.
    """
    # A batch may take longer than a request may; and COPY goes past SQLAlchemy, which begins the
    # transaction with the first statement that it sees.
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
    """Set `values` (at least one, by column) in each of the items, and step its version.

    Answers with the items as they are now, each at its id's place; None where there is none, or
    none of one of the `versions`.

    Raises:
        IntegrityError, DBAPIError: a value breaks a constraint, or does not fit its column.
    """
    rows = await _write(conn, UPDATE_MANY, ids, versions, values)
    found = {row.id: Item(*row) for row in rows}
    return [found.get(id_) for id_ in ids]


async def deactivate_many(
    conn: Connection, ids: Sequence[int], versions: Sequence[int] | None = None
) -> set[int]:
    """Make the items inactive; one that was so already stays as it is.

    Answers with the ids of those that exist, and are of one of the `versions`.
    """
    return {row.id for row in await _write(conn, DEACTIVATE_MANY, ids, versions)}


async def delete_many(
    conn: Connection, ids: Sequence[int], versions: Sequence[int] | None = None
) -> set[int]:
    """Remove the items for good.

    Answers with the ids of those that existed, and were of one of the `versions`.
    """
    return {row.id for row in await _write(conn, DELETE_MANY, ids, versions)}


async def _write(
    conn: Connection,
    statement: ReturningUpdate[Any] | ReturningDelete[Any],
    ids: Sequence[int],
    versions: Sequence[int] | None,
    values: Mapping[str, Any] | None = None,
) -> Sequence[Any]:
    """Execute `statement` for the items chosen, and answer with what it returns.

    PostgreSQL asks the condition again of a row that it had to wait for.
    """
    parameters = {**(values or {}), "ids": ids}
    if versions is not None:
        statement = statement.where(OF_A_VERSION)
        parameters["versions"] = versions
    rows: Sequence[Any] = (await conn.execute(statement, parameters)).all()
    return rows


def shape(query: ItemQuery) -> Hashable:
    """What queries have in common that one statement answers: all but the place of the page."""
    return query.filter, query.sort, query.count, query.after is None


def is_expensive(query: ItemQuery) -> bool:
    """Whether the database may have to read far more rows than it answers with."""
    if query.count == "exact" or (query.page - 1) * query.per_page > FAR:
        return True
    asked = lists.asked(query.filter)
    # One index serves the other filter and the sort together.
    return bool(asked) and (asked != ("is_active",) or query.sort.lstrip("-") != "id")


async def list_pages(conn: Connection, queries: Sequence[ItemQuery]) -> list[ItemPage]:
    """The page that each query asks for, in one statement for those of one shape."""
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
    for row in rows:  # the query's ordinal, the total, and an item
        if row[2] is not None:  # an empty page is one row of NULLs
            found[row[0] - 1].append(Item(*row[2:]))
    total = rows[0][1]
    return [_page_of(query, page, total) for query, page in zip(queries, found, strict=True)]


async def search_pages(conn: Connection, queries: Sequence[ItemQuery]) -> list[ItemPage]:
    """As `list_pages`, in a transaction, each statement planned for the very values asked for."""
    # Else PostgreSQL, after a few calls, takes a plan for no values in particular, which may walk a
    # whole index for the few rows that match.
    await conn.execute(text("SET LOCAL plan_cache_mode = force_custom_plan"))
    return await list_pages(conn, queries)


async def export_items(conn: AsyncConnection, wanted: ItemFilter) -> AsyncIterator[list[Item]]:
    """All items that match, by id, in batches; as they are at the first one.

    Runs in a transaction, and holds its connection.
    """
    # It waits for its client between two batches; how long is for the caller to bound.
    await conn.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))
    statement = lists.everything(lists.asked(wanted))
    options = {"yield_per": EXPORT_BATCH}
    async with conn.stream(statement, lists.values(wanted), execution_options=options) as rows:
        async for batch in rows.partitions():
            yield [Item(*row) for row in batch]


def _page_of(query: ItemQuery, found: list[Item], total: int | None) -> ItemPage:
    """The page, from its items and one more where there is one, or where the total tells of it."""
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
