"""Shared by all tables: names of constraints, types of columns, and the columns of a resource."""

from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, ClassVar, TypeVar

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    ColumnElement,
    DateTime,
    Identity,
    MetaData,
    Numeric,
    Text,
    cast,
    collate,
    func,
    literal_column,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeEngine

NAMING_CONVENTION = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "pk": "pk_%(table_name)s",
}

# Text to sort by code point: the same order on every server, fast to compare, and safe from changes
# of the operating system's locales, which would corrupt an index.
SortedText = Annotated[str, mapped_column(Text(collation="C"))]
# The collation of searches, which a migration creates. "C" folds ASCII letters only, and the
# database's own may be "C".
FOLDING = "folding"
Money = Annotated[Decimal, mapped_column(Numeric(12, 2))]

# The highest values of the nullable columns that sort lists, as SQL literals.
MAX_INT = "9223372036854775807"
MAX_PRICE = "9999999999.99"
MAX_TIME = "'9999-12-31 23:59:59.999999+00'::timestamptz"

T = TypeVar("T")


class Base(DeclarativeBase):
    """The declarative base: `int` maps to bigint, `datetime` to timestamptz."""

    metadata = MetaData(naming_convention=NAMING_CONVENTION)
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        int: BigInteger(),
        str: Text(),
        datetime: DateTime(timezone=True),
    }


class ResourceMixin:
    """The columns of every resource: its id, its version, and the times of its creation and of its
    last change, by the database's clock."""

    id: Mapped[int] = mapped_column(Identity(), primary_key=True, sort_order=-1)
    version: Mapped[int] = mapped_column(
        CheckConstraint("version >= 1", name="version_positive"),
        server_default=text("1"),
        sort_order=1,
    )
    created_at: Mapped[datetime] = mapped_column(server_default=func.now(), sort_order=1)
    updated_at: Mapped[datetime] = mapped_column(server_default=func.now(), sort_order=1)


def fold(value: ColumnElement[str]) -> ColumnElement[str]:
    """Return a text in lower case, as searches compare it: the expression of a trigram index."""
    return func.lower(collate(value, FOLDING))


def null_last(column: Any, infinity: str, type_: TypeEngine[T]) -> ColumnElement[T]:
    """Return the sort key of a nullable column: NULL sorts as `infinity`.

    The key is never NULL, so that the rows after a position are one range of an index on it.

    Args:
        infinity: an SQL literal that is greater than every value of the column.
    """
    return func.coalesce(column, literal_column(infinity), type_=type_)


def int_key(column: Any) -> ColumnElement[Decimal]:
    """Return the sort key of a nullable integer. It is numeric, as bigint has no infinity."""
    return null_last(cast(column, Numeric()), "'Infinity'::numeric", Numeric())


def price_key(column: Any) -> ColumnElement[Decimal]:
    """Return the sort key of a nullable price."""
    return null_last(column, "'Infinity'::numeric", Numeric())


def time_key(column: Any) -> ColumnElement[datetime]:
    """Return the sort key of a nullable time."""
    return null_last(column, "'infinity'::timestamptz", DateTime(timezone=True))
