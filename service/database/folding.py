"""A check whether the database ignores case in searches as Unicode does."""

import structlog
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from service.database.faults import sqlstate
from service.models.base import FOLDING

logger = structlog.get_logger(__name__)

# É and é.
FOLDS = text(f"SELECT lower(chr(201) COLLATE {FOLDING}) = chr(233)")
UNDEFINED_COLLATION = "42704"


async def check_folding(conn: AsyncConnection) -> None:
    """Log a warning if searches fail, or ignore the case of ASCII letters only."""
    hint = "searches ignore the case of A to Z only; use a database with the encoding UTF8"
    try:
        if await conn.scalar(FOLDS):
            return
    except DBAPIError as exc:
        if sqlstate(exc) == UNDEFINED_COLLATION:
            hint = "searches fail without it; run `items migrate`"
    logger.warning("no_folding_collation", hint=hint)
