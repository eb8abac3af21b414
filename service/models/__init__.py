"""The SQLAlchemy tables."""

from service.models.base import Base
from service.models.idempotency import IdempotencyKey
from service.models.item import Item

__all__ = ["Base", "IdempotencyKey", "Item"]
