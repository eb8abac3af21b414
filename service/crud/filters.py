"""Filters of lists: conditions on a column, each with one parameter of the filter's name."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    BindParameter,
    Column,
    ColumnElement,
    Text,
    and_,
    bindparam,
    literal_column,
    or_,
)

from service.models.base import fold


# Compared by identity, as SQLAlchemy makes a condition of `==`.
@dataclass(slots=True, frozen=True, eq=False)
class Filter:
    """One filter of a resource.

    Attributes:
        value: the parameter, named as the field of the resource's filter dataclass.
        condition: compares a column with `value`.
        convert: makes the parameter of a given value.
        flag: the column, if an index on it and the id serves the filter in the order of the ids.
            A list with this filter alone is inexpensive.
    """

    value: BindParameter[Any]
    condition: ColumnElement[bool]
    convert: Callable[[Any], Any] = lambda value: value
    flag: Column[Any] | None = None

    @property
    def name(self) -> str:
        """Return the name of the filter."""
        return self.value.key

    @property
    def optional(self) -> ColumnElement[bool]:
        """Return the condition in a form that holds for every row if the parameter is NULL.

        PostgreSQL simplifies it when it plans for given values, and then uses the same indexes.
        """
        return or_(self.value.is_(None), self.condition)


def flag(name: str, column: Column[bool]) -> Filter:
    """Return the filter for one value of a boolean that has an index, on it and the id."""
    value = bindparam(name, type_=column.type)
    # Not by equality: PostgreSQL would then walk the ids and discard the rows that do not match,
    # which may be all but the last.
    return Filter(value, column.between(value, value), flag=column)


def contains(name: str, column: Column[str]) -> Filter:
    """Return the filter for rows whose text contains a literal part, in either case."""
    value = bindparam(name, type_=Text())
    return Filter(value, fold(column).like(fold(value)), like_pattern)


def at_least(name: str, key: ColumnElement[Any], highest: object = None) -> Filter:
    """Return the filter for values from a lowest one, which is included.

    Args:
        key: the sort key of the column, which has an index.
        highest: for a key that is infinite where the column is NULL, an SQL literal of the highest
            value.
    """
    value = bindparam(name, type_=key.type)
    return Filter(value, _up_to(highest, key, key >= value))


def at_most(name: str, key: ColumnElement[Any]) -> Filter:
    """Return the filter for values up to a highest one, which is included."""
    value = bindparam(name, type_=key.type)
    return Filter(value, key <= value)


def after(name: str, key: ColumnElement[Any], highest: object = None) -> Filter:
    """Return the filter for times after another; `highest` is as for `at_least`."""
    value = bindparam(name, type_=key.type)
    return Filter(value, _up_to(highest, key, key > value))


def before(name: str, key: ColumnElement[Any]) -> Filter:
    """Return the filter for times before another."""
    value = bindparam(name, type_=key.type)
    return Filter(value, key < value)


def _up_to(
    highest: object, key: ColumnElement[Any], condition: ColumnElement[bool]
) -> ColumnElement[bool]:
    # Not below infinity: PostgreSQL estimates such a range badly.
    return condition if highest is None else and_(condition, key <= literal_column(str(highest)))


def like_pattern(part: str) -> str:
    r"""Return a LIKE pattern for a literal part anywhere: `%`, `_` and `\` are escaped."""
    escaped = part.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return f"%{escaped}%"
