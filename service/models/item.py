"""The table `items`."""

from decimal import Decimal
from typing import Any, cast

from sqlalchemy import (
    CheckConstraint,
    ColumnElement,
    Identity,
    Index,
    Numeric,
    Table,
    Text,
    collate,
    func,
    literal_column,
    text,
    true,
)
from sqlalchemy.orm import Mapped, mapped_column

from service.models.base import Base, TimestampMixin


def price_key(price: Any) -> ColumnElement[Decimal]:
    """What items are sorted by, and filtered: never NULL, so that whatever follows a row in the
    order is one range of the index."""
    return func.coalesce(price, literal_column("'Infinity'::numeric"), type_=Numeric())


class Item(TimestampMixin, Base):
    """Its CHECK constraints guard what the schema promises, whoever writes to the table."""

    __tablename__ = "items"

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    # Ordered by code point: the same on every server, the fastest to compare, and no upgrade of
    # the operating system's locales can corrupt an index.
    name: Mapped[str] = mapped_column(Text(collation="C"))
    description: Mapped[str | None] = mapped_column(Text)
    price: Mapped[Decimal | None] = mapped_column(Numeric(12, 2))
    is_active: Mapped[bool] = mapped_column(server_default=true())
    version: Mapped[int] = mapped_column(server_default=text("1"))

    __table_args__ = (
        CheckConstraint("char_length(name) <= 255 AND btrim(name) <> ''", name="name_length"),
        CheckConstraint("char_length(description) <= 10000", name="description_length"),
        # NaN is a numeric, and greater than every number.
        CheckConstraint("price >= 0 AND price < 'NaN'", name="price_range"),
        CheckConstraint("version >= 1", name="version_positive"),
        # Each serves a sort in both directions, with its ties by id; the first also the filter.
        Index(None, "is_active", "id"),
        Index(None, "name", "id"),
        Index("ix_items_price_key_id", price_key(price), "id"),
        Index(None, "created_at", "id"),
        Index(None, "updated_at", "id"),
    )
    # A trigram index for `q` stands in the migration alone: it exists only where pg_trgm does.


# What crud's statements are made of.
items = cast(Table, Item.__table__)

# What `q` searches. The collation "C" knows the case of ASCII letters only, the database's own
# knows the others.
name_folded = func.lower(collate(items.c.name, "default"))
