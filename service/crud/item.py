"""Items: sets in, sets out."""

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    ColumnElement,
    Numeric,
    Select,
    Text,
    UnaryExpression,
    any_,
    bindparam,
    column,
    delete,
    func,
    insert,
    select,
    text,
    true,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from sqlalchemy.sql.base import ReadOnlyColumnCollection

from service.domain.item import Item, ItemPage, ItemQuery
from service.models.item import items, name_folded

Connection = AsyncConnection | AsyncSession

# A list counts its matches up to here and no further, so that it never costs a full count.
COUNT_CAP = 10_000

# In the order of the members of `Item`.
COLUMNS = (
    items.c.id,
    items.c.name,
    items.c.description,
    items.c.price,
    items.c.is_active,
    items.c.version,
    items.c.created_at,
    items.c.updated_at,
)

IDS_GIVEN = items.c.id == any_(bindparam("ids", type_=ARRAY(BigInteger)))
GET_MANY = select(*COLUMNS).where(IDS_GIVEN)
DELETE_MANY = delete(items).where(IDS_GIVEN).returning(items.c.id)

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

_deactivated = (
    update(items)
    .where(IDS_GIVEN, items.c.is_active)
    .values(is_active=False, version=items.c.version + 1, updated_at=func.now())
    .cte("deactivated")
)
DEACTIVATE_MANY = select(items.c.id).where(IDS_GIVEN).add_cte(_deactivated)


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
    conn: Connection, ids: Sequence[int], values: Mapping[str, Any]
) -> list[Item | None]:
    """Set `values` (at least one, by column) in each of the items, and step its version.

    Answers with the items as they are now, each at its id's place; None where there is none.

    Raises:
        IntegrityError, DBAPIError: a value breaks a constraint, or does not fit its column.
    """
    statement = (
        update(items)
        .where(IDS_GIVEN)
        .values(**values, version=items.c.version + 1, updated_at=func.now())
        .returning(*COLUMNS)
    )
    rows = await conn.execute(statement, {"ids": ids})
    found = {row.id: Item(*row) for row in rows}
    return [found.get(id_) for id_ in ids]


async def deactivate_many(conn: Connection, ids: Sequence[int]) -> set[int]:
    """Make the items inactive; the version of one that was so already stays. Those that exist."""
    return set((await conn.scalars(DEACTIVATE_MANY, {"ids": ids})).all())


async def delete_many(conn: Connection, ids: Sequence[int]) -> set[int]:
    """Remove the items for good. Answers with the ids of those that existed."""
    return set((await conn.scalars(DELETE_MANY, {"ids": ids})).all())


async def list_pages(conn: Connection, queries: Sequence[ItemQuery]) -> list[ItemPage]:
    """The page that each query asks for, in one statement for those that differ in page only."""
    pages: dict[int, ItemPage] = {}
    by_shape: dict[tuple[bool | None, str | None, str], list[int]] = {}
    for index, query in enumerate(queries):
        by_shape.setdefault(shape(query), []).append(index)
    for (is_active, q, sort), indexes in by_shape.items():
        rows = await conn.execute(
            _list_pages(is_active is not None, q is not None, sort),
            {
                "is_active": is_active,
                "pattern": None if q is None else like_pattern(q),
                "sizes": [queries[index].per_page for index in indexes],
                "skips": [(queries[i].page - 1) * queries[i].per_page for i in indexes],
            },
        )
        for ordinal, total, *values in rows.all():
            index = indexes[ordinal - 1]
            if index not in pages:
                pages[index] = ItemPage([], min(total, COUNT_CAP), total > COUNT_CAP)
            if values[0] is not None:  # a page past the end is one row of NULLs
                pages[index].items.append(Item(*values))
    return [pages[index] for index in range(len(queries))]


def shape(query: ItemQuery) -> tuple[bool | None, str | None, str]:
    """What queries have in common that one statement answers: all but the page."""
    return query.is_active, query.q, query.sort


def is_dear(query: ItemQuery) -> bool:
    """Whether the database may have to read far more rows than it answers with."""
    skips_far = (query.page - 1) * query.per_page > 1000
    filters_while_it_walks = query.is_active is not None and query.sort.lstrip("-") != "id"
    return skips_far or filters_while_it_walks or query.q is not None


@cache
def _list_pages(by_active: bool, by_name: bool, sort: str) -> Select[Any]:
    """The statement for one shape of query; `sizes` and `skips` say which pages of its list."""
    matches: list[ColumnElement[bool]] = []
    if by_active:
        matches.append(items.c.is_active == bindparam("is_active", type_=Boolean))
    if by_name:
        matches.append(name_folded.like(func.lower(bindparam("pattern", type_=Text))))
    capped = select(true()).select_from(items).where(*matches).limit(COUNT_CAP + 1).subquery()
    total = select(func.count()).select_from(capped).scalar_subquery()
    asked = (
        func.unnest(
            bindparam("sizes", type_=ARRAY(BigInteger)), bindparam("skips", type_=ARRAY(BigInteger))
        )
        .table_valued("size", "skip", with_ordinality="ordinal", name="asked")
        .render_derived()
    )
    page = (
        select(*COLUMNS)
        .where(*matches)
        .order_by(*_order(sort, items.c))
        .limit(asked.c.size)
        .offset(asked.c.skip)
        .lateral("page")
    )
    return (
        select(asked.c.ordinal, total, *page.c)
        .select_from(asked.outerjoin(page, true()))
        .order_by(asked.c.ordinal, *_order(sort, page.c))
    )


def _order(
    sort: str, columns: ReadOnlyColumnCollection[str, Any]
) -> tuple[UnaryExpression[Any], ...]:
    """`-x` is `x` reversed in every respect, NULLs too: the same index, read backwards."""
    key = columns[sort.removeprefix("-")]
    if sort.startswith("-"):
        return key.desc().nulls_first(), columns.id.desc()
    return key.asc().nulls_last(), columns.id.asc()


def like_pattern(q: str) -> str:
    r"""What LIKE matches where `q` stands somewhere, literally: `%`, `_` and `\` escaped."""
    escaped = q.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return f"%{escaped}%"
