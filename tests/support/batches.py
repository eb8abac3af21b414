"""Batches of the service's coalesced calls: held in flight by a lock, counted, and ended."""

import asyncio
import time
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import httpx2 as httpx
from fastapi import FastAPI
from sqlalchemy import event

from service.crud import item as crud
from service.database.engine import transactional
from service.state import state_of
from tests.support.apps import connections_in_use
from tests.support.problems import check_problem
from tests.support.processes import connection
from tests.support.waiting import TIMEOUT, until

# The service's backends, and those whose statement waits for a lock.
OURS = (
    "FROM pg_stat_activity"
    " WHERE datname = current_database() AND application_name = 'items-service'"
)
BLOCKED = f"{OURS} AND wait_event_type = 'Lock'"


@asynccontextmanager
async def locked_items(url: str) -> AsyncIterator[None]:
    """Hold a lock on the table of items, for which every statement on it waits."""
    async with connection(url) as conn:
        await conn.execute("BEGIN; LOCK TABLE items")
        yield


async def wait_for_backends(admin: Any, number: int, which: str = BLOCKED) -> None:
    """Wait until there are exactly `number` backends of the service, by default blocked ones.

    Args:
        admin: asyncpg's connection to the service's database.
    """
    deadline = time.monotonic() + TIMEOUT
    # No event reports what another process does.
    while len(found := await admin.fetch(f"SELECT * {which}")) != number:
        assert time.monotonic() < deadline, f"not {number} but {found}"
        await asyncio.sleep(0.01)


async def end_blocked(admin: Any) -> None:
    """End the blocked backends, and wait until they are gone."""
    await admin.execute(f"SELECT pg_terminate_backend(pid, {TIMEOUT * 1000:.0f}) {BLOCKED}")


async def cancel_blocked(admin: Any) -> None:
    """Cancel the blocked statements, as the statement timeout does."""
    await admin.execute(f"SELECT pg_cancel_backend(pid) {BLOCKED}")


@contextmanager
def statements(app: FastAPI) -> Iterator[list[str]]:
    """Record the statements that the service sends meanwhile, each by its first word."""
    sent: list[str] = []

    def note(conn: Any, cursor: Any, statement: str, *rest: Any) -> None:
        sent.append(statement.split()[0])

    event.listen(state_of(app).engine.sync_engine, "before_cursor_execute", note)
    yield sent
    event.remove(state_of(app).engine.sync_engine, "before_cursor_execute", note)


async def store(app: FastAPI, number: int) -> list[int]:
    """Store items named "Item 00000" and so on, each with its number as the price; return ids."""
    rows = [{"name": f"Item {n:05}", "price": n} for n in range(number)]
    async with transactional(state_of(app).engine).begin() as conn:
        return [item.id for item in await crud.create_many(conn, rows)]


def start(*calls: Coroutine[Any, Any, Any]) -> list[asyncio.Task[Any]]:
    return [asyncio.create_task(call) for call in calls]


async def results(*calls: Any) -> list[Any]:
    """Make the calls in one turn of the event loop; return what each returns or raises."""
    async with asyncio.timeout(TIMEOUT):
        return await asyncio.gather(*calls, return_exceptions=True)


async def until_nothing_is_held(app: FastAPI, tasks: int) -> None:
    """Wait until no connection is in use and only `tasks` tasks are left."""
    await until(lambda: connections_in_use(app) == 0 and len(asyncio.all_tasks()) == tasks)


def check_unavailable(response: httpx.Response) -> None:
    """Assert that `response` is a 503 with Retry-After."""
    check_problem(response, 503, "unavailable")
    assert int(response.headers["retry-after"]) > 0
