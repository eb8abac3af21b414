"""Waiting for a state of the database, such as a statement that waits for a lock."""

import asyncio

from fastapi import FastAPI
from sqlalchemy import text

from service.state import state_of
from tests.support.waiting import TIMEOUT

BLOCKED = """(
    SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND wait_event_type = 'Lock'
)"""
BUSY = """(
    SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND state <> 'idle' AND pid <> pg_backend_pid()
)"""
ADVISORY_LOCKS = """(
    SELECT count(*) FROM pg_locks JOIN pg_database ON pg_database.oid = database
    WHERE datname = current_database() AND locktype = 'advisory'
)"""


async def until_true(app: FastAPI, condition: str) -> None:
    """Poll the database of `app`, which is started, until the SQL `condition` is true.

    Raises:
        TimeoutError: it is not true within `TIMEOUT` seconds.
    """
    async with asyncio.timeout(TIMEOUT), state_of(app).engine.connect() as conn:
        while not await conn.scalar(text(f"SELECT {condition}")):  # noqa: ASYNC110 (no event)
            await asyncio.sleep(0.01)
