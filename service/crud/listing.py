"""Lists of any resource: sets of queries in, pages out; and exports."""

from collections.abc import AsyncIterator, Hashable, Iterable, Sequence
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from service.crud.filters import Filter
from service.crud.pages import COUNT_CAP, everything, page_set
from service.crud.resource import Connection, Resource, Row
from service.domain.listing import Page, Query

MAX_INEXPENSIVE_SKIP = 1000  # rows that a page may skip and still be inexpensive
EXPORT_BATCH = 500  # rows fetched at a time
PLAN_FOR_VALUES = text("SET LOCAL plan_cache_mode = force_custom_plan")


def shape(query: Query[Any]) -> Hashable:
    """Return what queries must share to be one statement: all but the place of the page."""
    return query.filter, query.sort, query.count, query.after is None


def is_expensive(resource: Resource[Any], query: Query[Any]) -> bool:
    """Return whether the database may read many more rows than it returns."""
    if query.count == "exact" or (query.page - 1) * query.per_page > MAX_INEXPENSIVE_SKIP:
        return True
    return _served(resource, query) is None


async def list_pages(
    conn: Connection, resource: Resource[Row], queries: Sequence[Query[Any]]
) -> list[Page[Row]]:
    """Return the page of each query; queries of one shape take one statement."""
    pages: dict[int, Page[Row]] = {}
    by_shape: dict[Hashable, list[int]] = {}
    for index, query in enumerate(queries):
        by_shape.setdefault(shape(query), []).append(index)
    for indexes in by_shape.values():
        alike = [queries[index] for index in indexes]
        pages.update(zip(indexes, await _list_alike(conn, resource, alike), strict=True))
    return [pages[index] for index in range(len(queries))]


async def search_pages(
    conn: Connection, resource: Resource[Row], queries: Sequence[Query[Any]]
) -> list[Page[Row]]:
    """Return pages as `list_pages` does, in a transaction, with plans for the given values."""
    # After a few calls PostgreSQL would use a generic plan, which reads all rows for a few matches.
    await conn.execute(PLAN_FOR_VALUES)
    return await list_pages(conn, resource, queries)


async def export_rows(
    conn: AsyncConnection, resource: Resource[Row], wanted: Any
) -> AsyncIterator[list[Row]]:
    """Yield all rows that match the filter by id, in batches of one snapshot.

    It runs in a transaction and holds its connection.
    """
    # It waits for its client between two batches; the caller bounds that time.
    await conn.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))
    await conn.execute(PLAN_FOR_VALUES)
    options = {"yield_per": EXPORT_BATCH}
    values = _values(resource.filters, wanted)
    async with conn.stream(everything(resource), values, execution_options=options) as rows:
        async for batch in rows.partitions():
            yield [resource.make(*row) for row in batch]


async def _list_alike(
    conn: Connection, resource: Resource[Row], queries: Sequence[Query[Any]]
) -> list[Page[Row]]:
    """Return the pages of queries of one shape."""
    first = queries[0]
    served = _served(resource, first)
    after = [query.after for query in queries if query.after]
    answer = await conn.execute(
        page_set(resource, served, first.sort, first.count, bool(after)),
        {
            **_values(resource.filters if served is None else served, first.filter),
            "sizes": [query.per_page + (not _tells_more(query)) for query in queries],
            "skips": [(query.page - 1) * query.per_page for query in queries],
            "keys": [key for key, _ in after],
            "ids": [id_ for _, id_ in after],
        },
    )
    rows = answer.all()
    found: list[list[Row]] = [[] for _ in queries]
    for row in rows:  # the ordinal of the query, the total, and a row of the table
        if row[2] is not None:  # an empty page is one row of NULLs
            found[row[0] - 1].append(resource.make(*row[2:]))
    total = rows[0][1]
    return [_page_of(query, page, total) for query, page in zip(queries, found, strict=True)]


def _served(resource: Resource[Any], query: Query[Any]) -> tuple[Filter, ...] | None:
    """Return the filters that are set; None if no index serves them together with the sort."""
    given = tuple([f for f in resource.filters if getattr(query.filter, f.name) is not None])
    if not given:
        return given
    is_flag = len(given) == 1 and given[0].flag is not None
    return given if is_flag and query.sort in ("id", "-id") else None


def _values(filters: Iterable[Filter], wanted: Any) -> dict[str, Any]:
    """Return the parameters of the filters; None for one that is not set."""
    given = {filter_: getattr(wanted, filter_.name) for filter_ in filters}
    return {f.name: None if value is None else f.convert(value) for f, value in given.items()}


def _tells_more(query: Query[Any]) -> bool:
    """Return whether the total tells if more rows follow; otherwise one more row is fetched."""
    return (
        query.after is None and query.count != "none" and query.page * query.per_page <= COUNT_CAP
    )


def _page_of(query: Query[Any], found: list[Row], total: int | None) -> Page[Row]:
    """Return the page; `found` has one more row if more follow and the total does not tell."""
    if _tells_more(query):
        has_more = (total or 0) > query.page * query.per_page
    else:
        has_more = len(found) > query.per_page
    is_capped = query.count == "capped" and (total or 0) > COUNT_CAP
    return Page(
        found[: query.per_page],
        has_more=has_more,
        total=COUNT_CAP if is_capped else total,
        total_capped=is_capped,
    )
