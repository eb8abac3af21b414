"""The table `idempotency_keys`."""

from datetime import datetime
from typing import Any, cast

from sqlalchemy import Index, SmallInteger, Table, Text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from service.models.base import Base


class IdempotencyKey(Base):
    """A client's key, and the response to its request."""

    __tablename__ = "idempotency_keys"

    owner: Mapped[str] = mapped_column(Text, primary_key=True)
    key: Mapped[str] = mapped_column(Text, primary_key=True)
    fingerprint: Mapped[bytes]
    status: Mapped[int] = mapped_column(SmallInteger)
    headers: Mapped[Any] = mapped_column(JSONB)
    body: Mapped[bytes]
    expires_at: Mapped[datetime]

    __table_args__ = (Index(None, "expires_at"),)


# The table that crud builds its statements from.
idempotency_keys = cast(Table, IdempotencyKey.__table__)
