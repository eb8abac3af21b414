"""The checks of the database at the start: its connections, and its collation for searches."""

import structlog
from sqlalchemy import text

from service.database.engine import PoolerRefused, opened_engine
from service.database.folding import check_folding
from service.settings import Settings

logger = structlog.get_logger(__name__)

# The smallest limit of the server, the database and the role.
AVAILABLE_CONNECTIONS = text(
    """
    SELECT least(
        current_setting('max_connections')::int
            - current_setting('superuser_reserved_connections')::int
            - coalesce(current_setting('reserved_connections', true)::int, 0),
        (SELECT nullif(datconnlimit, -1) FROM pg_database WHERE datname = current_database()),
        (SELECT nullif(rolconnlimit, -1) FROM pg_roles WHERE rolname = current_user)
    )
    """
)


async def tell_connection_budget(settings: Settings) -> None:
    """Compare what the workers may open with what the database has, and log it.

    On the same connection, check the collation for searches.

    Raises:
        PoolerRefused: the database's address leads to a connection pooler.
    """
    needed = settings.web_concurrency * (settings.pool_size + settings.max_overflow)
    try:
        async with opened_engine(settings) as engine, engine.connect() as conn:
            available = await conn.scalar(AVAILABLE_CONNECTIONS)
            await check_folding(conn)
    except PoolerRefused:
        raise
    except Exception as exc:  # whatever it is, the service starts without a database, too
        error = type(exc.__cause__ or exc).__name__
        logger.warning("connection_budget_unknown", needed=needed, error=error)
        return
    if needed <= available:
        replicas = available // needed
        logger.info("connection_budget", needed=needed, available=available, replicas=replicas)
        return
    logger.warning(
        "too_few_connections",
        needed=needed,
        available=available,
        hint="lower WEB_CONCURRENCY, POOL_SIZE or MAX_OVERFLOW, or raise max_connections",
    )
