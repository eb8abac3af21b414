"""The statements for lists of items: pages, counts, exports."""

from decimal import Decimal
from functools import lru_cache
from typing import Any

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    ColumnElement,
    DateTime,
    Numeric,
    Select,
    Text,
    UnaryExpression,
    and_,
    bindparam,
    func,
    literal_column,
    null,
    select,
    true,
    tuple_,
)
from sqlalchemy.sql.base import ReadOnlyColumnCollection
from sqlalchemy.types import TypeEngine

from service.domain.item import ItemFilter, ItemQuery
from service.domain.listing import Position
from service.domain.price import MAX_PRICE
from service.models.item import items, name_folded, price_key

# A list counts its matches up to this number, so that it never costs a full count.
COUNT_CAP = 10_000

# In the order of the fields of `Item`.
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
NO_PRICE = Decimal("Infinity")  # the sort key of an item without a price
KEY_TYPES: dict[str, TypeEngine[Any]] = {
    "id": BigInteger(),
    "name": Text(),
    "price": Numeric(),
    "created_at": DateTime(timezone=True),
    "updated_at": DateTime(timezone=True),
}

# The condition of each field of ItemFilter.
CONDITIONS: dict[str, ColumnElement[bool]] = {
    # Not by equality: PostgreSQL would then walk the ids and discard the rows that do not match,
    # which may be all but the last.
    "is_active": items.c.is_active.between(
        bindparam("is_active", type_=Boolean), bindparam("is_active", type_=Boolean)
    ),
    "q": name_folded.like(func.lower(bindparam("q", type_=Text))),
    "price_min": and_(
        price_key(items.c.price) >= bindparam("price_min", type_=Numeric),
        # The highest price: PostgreSQL estimates a range up to infinity badly.
        price_key(items.c.price) <= literal_column(str(MAX_PRICE)),
    ),
    "price_max": price_key(items.c.price) <= bindparam("price_max", type_=Numeric),
    "created_after": items.c.created_at > bindparam("created_after", type_=DateTime(True)),
    "created_before": items.c.created_at < bindparam("created_before", type_=DateTime(True)),
    "updated_after": items.c.updated_at > bindparam("updated_after", type_=DateTime(True)),
}


def asked(wanted: ItemFilter) -> tuple[str, ...]:
    """Return the names of the filters that are set."""
    return tuple(name for name in CONDITIONS if getattr(wanted, name) is not None)


def values(wanted: ItemFilter) -> dict[str, Any]:
    """Return the parameters of the filters that are set."""
    given = {name: getattr(wanted, name) for name in asked(wanted)}
    if wanted.q is not None:
        given["q"] = like_pattern(wanted.q)
    return given


def after(query: ItemQuery) -> Position:
    """Return the position after which the page starts, as parameters."""
    assert query.after is not None
    key, id_ = query.after
    return (NO_PRICE if key is None else key), id_


def tells_more(query: ItemQuery) -> bool:
    """Return whether the total tells if more rows follow; otherwise one more row is fetched."""
    return (
        query.after is None and query.count != "none" and query.page * query.per_page <= COUNT_CAP
    )


def like_pattern(q: str) -> str:
    r"""Return a LIKE pattern for a literal `q` anywhere: `%`, `_` and `\` are escaped."""
    escaped = q.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return f"%{escaped}%"


@lru_cache(256)  # clients may combine thousands; each takes 80 kB
def page_set(names: tuple[str, ...], sort: str, count: str, by_cursor: bool) -> Select[Any]:
    """Return the statement for pages of one list, whose places are given as arrays."""
    columns = ["size", "skip"]
    arrays: list[Any] = [
        bindparam("sizes", type_=ARRAY(BigInteger)),
        bindparam("skips", type_=ARRAY(BigInteger)),
    ]
    if by_cursor:
        columns += ["key", "id"]
        arrays += [
            bindparam("keys", type_=ARRAY(KEY_TYPES[sort.removeprefix("-")])),
            bindparam("ids", type_=ARRAY(BigInteger)),
        ]
    places = (
        func.unnest(*arrays)
        .table_valued(*columns, with_ordinality="ordinal", name="places")
        .render_derived()
    )
    page = (
        select(*COLUMNS).where(*(CONDITIONS[name] for name in names)).order_by(*_walk(names, sort))
    )
    if by_cursor:
        page = page.where(_follows(sort, places.c.key, places.c.id))
    chosen = page.limit(places.c.size).offset(places.c.skip).lateral("page")
    total = null() if count == "none" else _count_of(names, count).scalar_subquery()
    return (
        select(places.c.ordinal, total, *chosen.c)
        .select_from(places.outerjoin(chosen, true()))
        .order_by(places.c.ordinal, *_order(sort, chosen.c))
    )


def everything(names: tuple[str, ...]) -> Select[Any]:
    """Return the statement for all matches, by id."""
    return select(*COLUMNS).where(*(CONDITIONS[name] for name in names)).order_by(items.c.id)


def _count_of(names: tuple[str, ...], count: str) -> Select[Any]:
    """Return the statement that counts the matches."""
    matches = select(true()).select_from(items).where(*(CONDITIONS[name] for name in names))
    if count == "capped":
        matches = matches.limit(COUNT_CAP + 1)
    return select(func.count()).select_from(matches.subquery())


def _follows(sort: str, key: Any, id_: Any) -> ColumnElement[bool]:
    """Return the condition for rows after a position."""
    here: ColumnElement[Any] = tuple_(_key(sort, items.c), items.c.id)
    there: ColumnElement[Any] = tuple_(key, id_)
    if sort.lstrip("-") == "id":
        here, there = items.c.id, id_
    return here < there if sort.startswith("-") else here > there


def _walk(names: tuple[str, ...], sort: str) -> tuple[UnaryExpression[Any], ...]:
    """Return the order of the index that serves the filters and the sort."""
    order = _order(sort, items.c)
    if names != ("is_active",) or sort.lstrip("-") != "id":
        return order
    # By both columns, though the first is constant, so that only the index on both can serve it.
    first = items.c.is_active
    return (first.desc() if sort.startswith("-") else first.asc(), *order)


def _order(
    sort: str, columns: ReadOnlyColumnCollection[str, Any]
) -> tuple[UnaryExpression[Any], ...]:
    """Return the order; `-x` is the exact reverse of `x`, the same index read backwards."""
    key = _key(sort, columns)
    if sort.startswith("-"):
        return key.desc(), columns.id.desc()
    return key.asc(), columns.id.asc()


def _key(sort: str, columns: ReadOnlyColumnCollection[str, Any]) -> ColumnElement[Any]:
    name = sort.removeprefix("-")
    return price_key(columns.price) if name == "price" else columns[name]
