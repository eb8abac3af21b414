"""Sessions: when they commit, and what happens when no connection is free."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Annotated, Any

import httpx2 as httpx
import pytest
from asyncpg.exceptions import AdminShutdownError
from fastapi import Depends, FastAPI
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, InvalidRequestError
from sqlalchemy.ext.asyncio import AsyncSession

from service.crud import item as crud
from service.database.sessions import Sessions
from service.http.dependencies import get_db
from service.settings import Settings
from service.state import state_of
from tests.support.apps import connections_in_use
from tests.support.problems import check_problem
from tests.support.processes import connection
from tests.support.samples import LAMP
from tests.support.waiting import TIMEOUT

Session = Annotated[AsyncSession, Depends(get_db, scope="function")]

# Raises at the commit only, as a constraint that is INITIALLY DEFERRED does.
REFUSE_COMMITS = """
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'refused' USING ERRCODE = 'check_violation';
END
$$;
CREATE CONSTRAINT TRIGGER refuse AFTER INSERT OR UPDATE OR DELETE ON items
DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION refuse();
"""


async def names(client: httpx.AsyncClient) -> list[str]:
    """Return the names of all items."""
    return [item["name"] for item in (await client.get("/items")).json()["items"]]


async def test_a_commit_that_fails_is_an_error(
    client: httpx.AsyncClient, database_url: str
) -> None:
    item = (await client.post("/items", json=LAMP)).json()
    async with connection(database_url) as admin:
        await admin.execute(REFUSE_COMMITS)
        try:
            responses = [
                await client.post("/items", json=LAMP),
                await client.post("/items", json=LAMP, headers={"Idempotency-Key": "lamp"}),
                await client.post("/items/bulk", json={"items": [LAMP]}),
                await client.put("/items/1", json=LAMP),
                await client.patch("/items/1", json={"price": 1}),
                await client.delete("/items/1"),
                await client.delete("/items/1?permanent=true"),
            ]
        finally:
            await admin.execute("DROP FUNCTION refuse CASCADE")

    for response in responses:
        check_problem(response, 422, "invalid-input")
    assert (await client.get("/items")).json()["items"] == [item]


async def test_get_db_commits_before_the_response(app: FastAPI, client: httpx.AsyncClient) -> None:
    async def store(session: Session, name: str, fails_at_commit: bool = False) -> None:
        await crud.create_many(session, [{"name": name}])
        if fails_at_commit:
            column = "number int UNIQUE DEFERRABLE INITIALLY DEFERRED"
            await session.execute(text(f"CREATE TEMP TABLE once ({column}) ON COMMIT DROP"))
            await session.execute(text("INSERT INTO once VALUES (1), (1)"))

    app.add_api_route("/store", store, methods=["POST"])

    assert (await client.post("/store?name=kept")).status_code == 200
    assert (await client.post("/store?name=lost&fails_at_commit=true")).status_code == 409
    assert await names(client) == ["kept"]


async def test_get_db_rolls_back_on_an_error(app: FastAPI, client: httpx.AsyncClient) -> None:
    async def fail(session: Session) -> None:
        await crud.create_many(session, [LAMP])
        raise RuntimeError

    app.add_api_route("/fail", fail, methods=["POST"])

    assert (await client.post("/fail")).status_code == 500
    assert await names(client) == []
    assert connections_in_use(app) == 0


@pytest.fixture
def small_pool(settings: Settings) -> Settings:
    """A pool of 3 connections, of which sessions take two; one more session may wait."""
    settings.pool_size, settings.max_overflow, settings.queue_limit = 2, 1, 1
    settings.pool_timeout = settings.request_timeout = TIMEOUT
    return settings


@asynccontextmanager
async def all_sessions_taken(app: FastAPI) -> AsyncIterator[None]:
    """Hold as many sessions, each with a connection, as a small pool has."""
    async with AsyncExitStack() as stack:
        for _ in range(2):
            session = await stack.enter_async_context(state_of(app).sessions.begin())
            await session.execute(text("SELECT 1"))
        yield


async def test_past_the_bound_on_waiting_sessions_requests_get_503(
    small_pool: Settings, app: FastAPI, client: httpx.AsyncClient
) -> None:
    async with all_sessions_taken(app):
        waiting = asyncio.create_task(client.delete("/items/1"))
        await asyncio.sleep(0)
        refused = [
            await client.delete("/items/1"),
            await client.post("/items/bulk", json={"items": [LAMP]}),
            await client.post("/items", json=LAMP, headers={"Idempotency-Key": "lamp"}),
        ]
        for response in refused:
            check_problem(response, 503, "unavailable")
            assert int(response.headers["retry-after"]) >= 1
        # Bad input is a 422 all the same.
        check_problem(await client.post("/items/bulk", json={"items": [{}]}), 422, "invalid-input")
        # The last connection of the pool serves the requests that need no session.
        assert (await client.post("/items", json=LAMP)).status_code == 201
        assert (await client.get("/items/1")).status_code == 200
        assert (await client.get("/health/ready")).status_code == 200
        assert not waiting.done()

    assert (await waiting).status_code == 204


async def test_a_session_that_waits_longer_than_pool_timeout_is_a_503(
    small_pool: Settings, app: FastAPI, client: httpx.AsyncClient
) -> None:
    state_of(app).sessions = Sessions(
        state_of(app).engine, small_pool.model_copy(update={"pool_timeout": 0.05})
    )
    async with all_sessions_taken(app):
        check_problem(await client.delete("/items/1"), 503, "unavailable")

    assert (await client.delete("/items/1")).status_code == 404


REFUSED = InvalidRequestError("This connection is closed")  # by SQLAlchemy's pool
UNDONE = DBAPIError("SELECT 1", None, AdminShutdownError())


@pytest.mark.parametrize("error", [REFUSED, UNDONE], ids=["refused", "ended"])
async def test_work_that_the_database_did_not_begin_is_done_once_more(
    app: FastAPI, error: Exception
) -> None:
    calls: list[Any] = []

    async def fail_once(conn: Any, word: str = "") -> str:
        calls.append(conn)
        if len(calls) == 1:
            raise error
        return f"done {word}"

    sessions = state_of(app).sessions
    assert await sessions.run(fail_once, "it") == "done it"
    calls.clear()
    assert await sessions.transaction(fail_once) == "done "
    assert len(calls) == 2


@pytest.mark.parametrize("error", [OSError(), InvalidRequestError("a defect"), ValueError()])
async def test_other_work_is_not_repeated(app: FastAPI, error: Exception) -> None:
    calls: list[Any] = []

    async def fail(conn: Any) -> None:
        calls.append(conn)
        raise error

    with pytest.raises(type(error)):
        await state_of(app).sessions.transaction(fail)
    assert len(calls) == 1
