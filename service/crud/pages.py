"""The statements for lists of any resource: pages, counts, exports.

A resource has a bounded number of them, each made once. Where an index serves the filters together
with the sort, the statement has exactly their conditions, and one plan serves all values. Any other
list takes a statement with the conditions of all filters, where NULL stands for a filter that is
not set. PostgreSQL must plan it for its values (`plan_cache_mode = force_custom_plan`). A statement
for each combination of filters would take 80 kB of a worker's memory, and there are thousands.
"""

from functools import cache
from typing import Any

from sqlalchemy import (
    ARRAY,
    BigInteger,
    ColumnElement,
    Select,
    UnaryExpression,
    bindparam,
    func,
    null,
    select,
    true,
    tuple_,
)
from sqlalchemy.sql.base import ReadOnlyColumnCollection

from service.crud.filters import Filter
from service.crud.resource import Resource, parameter_type
from service.domain.listing import Count

# A list counts its matches up to this number, so that it never costs a full count.
COUNT_CAP = 10_000

Columns = ReadOnlyColumnCollection[str, Any]


@cache
def page_set(
    resource: Resource[Any],
    filters: tuple[Filter, ...] | None,
    sort: str,
    count: Count,
    by_cursor: bool,
) -> Select[Any]:
    """Return the statement for pages of one list, whose places are given as arrays.

    Args:
        filters: the filters that are set, if an index serves them and the sort; None for any.
        by_cursor: whether each page starts after a position.
    """
    columns = ["size", "skip"]
    arrays: list[Any] = [
        bindparam("sizes", type_=ARRAY(BigInteger)),
        bindparam("skips", type_=ARRAY(BigInteger)),
    ]
    if by_cursor:
        columns += ["key", "id"]
        key_type = parameter_type(resource.table.c[sort.removeprefix("-")])
        arrays += [
            bindparam("keys", type_=ARRAY(key_type)),
            bindparam("ids", type_=ARRAY(BigInteger)),
        ]
    places = (
        func.unnest(*arrays)
        .table_valued(*columns, with_ordinality="ordinal", name="places")
        .render_derived()
    )
    conditions = _conditions(resource, filters)
    page = select(*resource.columns).where(*conditions).order_by(*_walk(resource, filters, sort))
    if by_cursor:
        page = page.where(_follows(resource, sort, places.c))
    chosen = page.limit(places.c.size).offset(places.c.skip).lateral("page")
    total = null() if count == "none" else _count_of(resource, conditions, count)
    return (
        select(places.c.ordinal, total, *chosen.c)
        .select_from(places.outerjoin(chosen, true()))
        .order_by(places.c.ordinal, *_order(resource, sort, chosen.c))
    )


@cache
def everything(resource: Resource[Any]) -> Select[Any]:
    """Return the statement for all matches of any filters, by id."""
    matches = select(*resource.columns).where(*_conditions(resource, None))
    return matches.order_by(resource.table.c.id)


def _conditions(
    resource: Resource[Any], filters: tuple[Filter, ...] | None
) -> list[ColumnElement[bool]]:
    if filters is None:
        return [filter_.optional for filter_ in resource.filters]
    return [filter_.condition for filter_ in filters]


def _count_of(
    resource: Resource[Any], conditions: list[ColumnElement[bool]], count: Count
) -> ColumnElement[int]:
    """Return the subquery that counts the matches."""
    matches = select(true()).select_from(resource.table).where(*conditions)
    if count == "capped":
        matches = matches.limit(COUNT_CAP + 1)
    return select(func.count()).select_from(matches.subquery()).scalar_subquery()


def _follows(resource: Resource[Any], sort: str, places: Columns) -> ColumnElement[bool]:
    """Return the condition for rows after a position."""
    name = sort.removeprefix("-")
    columns, key = resource.table.c, resource.sorts[name]
    here: ColumnElement[Any] = tuple_(key(columns[name]), columns.id)
    there: ColumnElement[Any] = tuple_(key(places.key), places.id)
    if name == "id":
        here, there = columns.id, places.id
    return here < there if sort.startswith("-") else here > there


def _walk(
    resource: Resource[Any], filters: tuple[Filter, ...] | None, sort: str
) -> list[UnaryExpression[Any]]:
    """Return the order of the index that serves the filters and the sort."""
    # By the flag too, though it is constant, so that only the index on both can serve it.
    flags = [filter_.flag for filter_ in filters or () if filter_.flag is not None]
    first = [flag.desc() if sort.startswith("-") else flag.asc() for flag in flags]
    return [*first, *_order(resource, sort, resource.table.c)]


def _order(resource: Resource[Any], sort: str, columns: Columns) -> list[UnaryExpression[Any]]:
    """Return the order; `-x` is the exact reverse of `x`, the same index read backwards."""
    name = sort.removeprefix("-")
    key = resource.sorts[name](columns[name])
    if sort.startswith("-"):
        return [key.desc(), columns.id.desc()]
    return [key.asc(), columns.id.asc()]
