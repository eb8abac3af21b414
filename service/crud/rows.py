"""Rows of any resource by id, and new ones: sets in, sets out, in one statement."""

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from operator import attrgetter
from typing import Any

from sqlalchemy import (
    ARRAY,
    BigInteger,
    ColumnElement,
    Select,
    Table,
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
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.sql.dml import ReturningDelete, ReturningInsert, ReturningUpdate

from service.crud.resource import Connection, Resource, Row, parameter_type

Write = ReturningUpdate[Any] | ReturningDelete[Any]


async def get_many(
    conn: Connection, resource: Resource[Row], ids: Sequence[int]
) -> list[Row | None]:
    """Return the rows with these ids, in the order of `ids`; None for a missing one."""
    rows = (await conn.execute(_selection(resource), {"ids": ids})).all()
    return _in_order(resource, ids, rows)


async def create_many(
    conn: Connection, resource: Resource[Row], rows: Sequence[Mapping[str, Any]]
) -> list[Row]:
    """Store rows, all or none; return them in the order of `rows`.

    Args:
        rows: values by column; those of `defaults` may be omitted.

    Raises:
        IntegrityError, DBAPIError: a row violates a constraint, or does not fit its column.
    """
    parameters = {f"new_{name}": _values(resource, name, rows) for name in resource.content}
    created = await conn.execute(_insertion(resource), parameters)
    return sorted([resource.make(*row) for row in created.all()], key=attrgetter("id"))


async def copy_many(
    conn: AsyncConnection, resource: Resource[Any], rows: Iterable[Mapping[str, Any]]
) -> None:
    """Store a large number of rows by COPY, without returning them.

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
    given = list(rows)
    await driver.copy_records_to_table(
        resource.table.name,
        records=zip(*[_values(resource, name, given) for name in resource.content], strict=True),
        columns=resource.content,
    )


async def update_many(
    conn: Connection,
    resource: Resource[Row],
    ids: Sequence[int],
    values: Mapping[str, Any],
    versions: Sequence[int] | None = None,
) -> list[Row | None]:
    """Set `values` in the rows and increment their versions.

    Args:
        values: at least one, by column.
        versions: change only rows that have one of these.

    Returns:
        The changed rows, in the order of `ids`; None for one that was not changed.

    Raises:
        IntegrityError, DBAPIError: a value violates a constraint, or does not fit its column.
    """
    rows = await _write(conn, resource.table, _change(resource), ids, versions, values)
    return _in_order(resource, ids, rows)


async def deactivate_many(
    conn: Connection,
    resource: Resource[Any],
    ids: Sequence[int],
    versions: Sequence[int] | None = None,
) -> set[int]:
    """Set `is_active` to false; a row that is inactive does not change.

    Returns the ids of those that exist and have one of the `versions`.
    """
    table = resource.table
    return {row.id for row in await _write(conn, table, _deactivation(table), ids, versions)}


async def delete_many(
    conn: Connection,
    resource: Resource[Any],
    ids: Sequence[int],
    versions: Sequence[int] | None = None,
) -> set[int]:
    """Delete the rows.

    Returns the ids of those that existed and had one of the `versions`.
    """
    table = resource.table
    return {row.id for row in await _write(conn, table, _deletion(table), ids, versions)}


async def _write(
    conn: Connection,
    table: Table,
    statement: Write,
    ids: Sequence[int],
    versions: Sequence[int] | None,
    values: Mapping[str, Any] | None = None,
) -> Sequence[Any]:
    """Execute `statement` for the chosen rows and return its result.

    PostgreSQL checks the condition again for a row whose lock it waited for.
    """
    parameters = {**(values or {}), "ids": ids}
    if versions is not None:
        statement = statement.where(
            table.c.version == any_(bindparam("versions", type_=ARRAY(BigInteger)))
        )
        parameters["versions"] = versions
    rows: Sequence[Any] = (await conn.execute(statement, parameters)).all()
    return rows


def _in_order(resource: Resource[Row], ids: Sequence[int], rows: Sequence[Any]) -> list[Row | None]:
    found = {row.id: resource.make(*row) for row in rows}
    return [found.get(id_) for id_ in ids]


def _values(resource: Resource[Any], name: str, rows: Sequence[Mapping[str, Any]]) -> list[Any]:
    """Return the values of a column in new rows, with its default."""
    if name not in resource.defaults:
        return [row[name] for row in rows]
    default = resource.defaults[name]
    return [row.get(name, default) for row in rows]


# The statements, each made once for a table. They take arrays, and so a whole set.


def _chosen(table: Table) -> ColumnElement[bool]:
    return table.c.id == any_(bindparam("ids", type_=ARRAY(BigInteger)))


@cache
def _selection(resource: Resource[Any]) -> Select[Any]:
    return select(*resource.columns).where(_chosen(resource.table))


@cache
def _change(resource: Resource[Any]) -> ReturningUpdate[Any]:
    """Return the statement that updates rows; further columns are set when it is executed."""
    table = resource.table
    changed = {"version": table.c.version + 1, "updated_at": _now(table.c.updated_at)}
    return update(table).where(_chosen(table)).values(changed).returning(*resource.columns)


@cache
def _deactivation(table: Table) -> ReturningUpdate[Any]:
    old = table.c
    changed = {
        "is_active": False,
        "version": case((old.is_active, old.version + 1), else_=old.version),
        "updated_at": case((old.is_active, _now(old.updated_at)), else_=old.updated_at),
    }
    return update(table).where(_chosen(table)).values(changed).returning(old.id)


@cache
def _deletion(table: Table) -> ReturningDelete[Any]:
    return delete(table).where(_chosen(table)).returning(table.c.id)


@cache
def _insertion(resource: Resource[Any]) -> ReturningInsert[Any]:
    columns = [resource.table.c[name] for name in resource.content]
    types = {c.name: parameter_type(c) for c in columns}
    given = (
        func.unnest(
            *[bindparam(f"new_{name}", type_=ARRAY(type_)) for name, type_ in types.items()]
        )
        .table_valued(
            *[column(name, type_) for name, type_ in types.items()],
            with_ordinality="ordinal",
            name="given",
        )
        .render_derived()
    )
    # Ids are assigned after the sort, so they grow in the order of the given rows.
    ordered = select(*[given.c[name] for name in types]).order_by(given.c.ordinal)
    return insert(resource.table).from_select(columns, ordered).returning(*resource.columns)


def _now(updated_at: ColumnElement[Any]) -> ColumnElement[Any]:
    """Return the time of a change, which is never before that of the last one."""
    return func.greatest(func.now(), updated_at)
