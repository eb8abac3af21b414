"""The table `items`."""

from typing import cast

from sqlalchemy import CheckConstraint, Index, Table, true
from sqlalchemy.orm import Mapped, mapped_column

from service.models.base import Base, Money, ResourceMixin, SortedText, price_key


class Item(ResourceMixin, Base):
    """An item. The CHECK constraints hold for every writer of the table."""

    __tablename__ = "items"

    name: Mapped[SortedText]
    description: Mapped[str | None]
    price: Mapped[Money | None] = mapped_column()
    is_active: Mapped[bool] = mapped_column(server_default=true())

    __table_args__ = (
        CheckConstraint("char_length(name) <= 255 AND btrim(name) <> ''", name="name_length"),
        CheckConstraint("char_length(description) <= 10000", name="description_length"),
        # NaN is a numeric value, greater than every number.
        CheckConstraint("price >= 0 AND price < 'NaN'", name="price_range"),
        # Each serves a filter by a boolean, or one sort in both directions, with ties by id.
        Index(None, "is_active", "id"),
        Index(None, "name", "id"),
        Index("ix_items_price_key_id", price_key(price), "id"),
        Index(None, "created_at", "id"),
        Index(None, "updated_at", "id"),
    )
    # The trigram index for `q` is in the migration only, as it requires the extension pg_trgm.


# The table that crud builds its statements from.
items = cast(Table, Item.__table__)
