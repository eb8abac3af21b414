"""The description of a resource, from which the shared functions make its statements."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Generic, TypeVar

from sqlalchemy import Column, ColumnElement, Numeric, Table, Text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from sqlalchemy.types import TypeEngine

from service.crud.filters import Filter
from service.domain.listing import Stored

Connection = AsyncConnection | AsyncSession
Row = TypeVar("Row", bound=Stored)


# Compared by identity, as each statement is made once for a resource and kept.
@dataclass(slots=True, frozen=True, eq=False)
class Resource(Generic[Row]):
    """What is particular to a resource.

    Attributes:
        table: has the columns of `models.base.ResourceMixin`.
        make: the dataclass of a stored row, called with the values of `columns`.
        columns: the columns of a stored row; the first is the id.
        content: the columns that clients write.
        defaults: values of `content` that a new row may omit.
        sorts: the sort key of each column that sorts lists, as a function of the column.
            An index on the key and the id must serve it.
        filters: the filters of lists.
    """

    table: Table
    make: Callable[..., Row]
    columns: tuple[Column[Any], ...]
    content: tuple[str, ...]
    defaults: Mapping[str, Any]
    sorts: Mapping[str, Callable[[Any], ColumnElement[Any]]]
    filters: tuple[Filter, ...]


def columns_of(table: Table, row: type[Any]) -> tuple[Column[Any], ...]:
    """Return the columns that the fields of a dataclass name, in their order."""
    return tuple([table.c[field.name] for field in fields(row)])


def itself(column: Any) -> Any:
    """Return the column: the sort key of one that is never NULL."""
    return column


def parameter_type(column: Column[Any]) -> TypeEngine[Any]:
    """Return the column's type without collation and precision, which only the column checks."""
    if isinstance(column.type, Text):
        return Text()
    return Numeric() if isinstance(column.type, Numeric) else column.type
