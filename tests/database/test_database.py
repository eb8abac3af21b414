"""The engine and the sessions: what connections are told, lost connections, and when it commits."""

import asyncio
import socket
from typing import Annotated, Any

import httpx2 as httpx
import pytest
from fastapi import APIRouter, Depends, FastAPI
from sqlalchemy import event, text
from sqlalchemy.engine import AdaptedConnection
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from service.crud import item as crud
from service.database import create_engine, get_db
from service.main import create_app
from service.routing import StrictRoute
from service.schemas.item import ItemCreate
from service.settings import Settings
from tests.support.processes import connection
from tests.support.waiting import TIMEOUT

Session = Annotated[AsyncSession, Depends(get_db, scope="function")]

# Speaks up at the commit only, as a constraint does that is INITIALLY DEFERRED.
REFUSE_COMMITS = """
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'refused' USING ERRCODE = 'check_violation';
END
$$;
CREATE CONSTRAINT TRIGGER refuse AFTER INSERT OR UPDATE OR DELETE ON items
DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION refuse();
"""


async def until_closed(driver: Any) -> None:
    """Wait until the driver has noticed that its connection is lost."""
    async with asyncio.timeout(TIMEOUT):
        while not driver.is_closed():  # noqa: ASYNC110 (it tells nobody)
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("application_name", "items-service"),
        ("timezone", "UTC"),
        ("default_transaction_isolation", "read committed"),
        ("statement_timeout", "5s"),
        ("lock_timeout", "3s"),
        ("idle_in_transaction_session_timeout", "30s"),
    ],
)
async def test_a_connection_is_told(conn: AsyncConnection, name: str, value: str) -> None:
    assert await conn.scalar(text(f"SHOW {name}")) == value


async def test_the_statement_timeout_is_the_setting(settings: Settings) -> None:
    engine = create_engine(settings.model_copy(update={"statement_timeout_ms": 1234}))
    async with engine.connect() as conn:
        assert await conn.scalar(text("SHOW statement_timeout")) == "1234ms"
    await engine.dispose()


@pytest.mark.parametrize("pre_ping", [False, True])
async def test_a_lost_connection_is_replaced_without_an_error(
    settings: Settings, database_url: str, pre_ping: bool
) -> None:
    changes = {"pool_size": 1, "max_overflow": 0, "pool_pre_ping": pre_ping}
    engine = create_engine(settings.model_copy(update=changes))
    async with engine.connect() as conn:
        driver = (await conn.get_raw_connection()).driver_connection
        pid = await conn.scalar(text("SELECT pg_backend_pid()"))
    assert driver is not None

    async with connection(database_url) as admin:
        assert await admin.fetchval("SELECT pg_terminate_backend($1, 5000)", pid)
    await until_closed(driver)

    async with engine.connect() as conn:
        assert await conn.scalar(text("SELECT pg_backend_pid()")) != pid
    await engine.dispose()


async def test_a_connection_that_came_as_it_was_given_up_is_ended(settings: Settings) -> None:
    engine = create_engine(settings)
    waiting = asyncio.create_task(engine.connect().start())
    connecting: list[asyncio.Task[Any]] = []
    while not connecting:
        await asyncio.sleep(0)
        connecting = [task for task in asyncio.all_tasks() if _name(task) == "_connect"]
    connecting[0].add_done_callback(lambda done: waiting.cancel())
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await until_closed(connecting[0].result())
    await engine.dispose()


def _name(task: asyncio.Task[Any]) -> str:
    return str(getattr(task.get_coro(), "__name__", ""))


@pytest.mark.skipif(not hasattr(socket, "TCP_KEEPIDLE"), reason="Linux's names")
async def test_a_connection_that_waits_asks_whether_its_host_is_there(
    conn: AsyncConnection,
) -> None:
    driver: Any = (await conn.get_raw_connection()).driver_connection
    connected = driver._transport.get_extra_info("socket")
    assert connected.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    for option, value in (
        (socket.TCP_KEEPIDLE, 4),
        (socket.TCP_KEEPINTVL, 1),
        (socket.TCP_KEEPCNT, 4),
    ):
        assert connected.getsockopt(socket.IPPROTO_TCP, option) == value


async def test_requests_do_not_notice_lost_connections(
    app: FastAPI, client: httpx.AsyncClient, database_url: str
) -> None:
    drivers: list[Any] = []

    @event.listens_for(app.state.engine.sync_engine, "connect")
    def note(connection: AdaptedConnection, record: object) -> None:
        drivers.append(connection.driver_connection)

    assert (await client.get("/items")).status_code == 200
    async with connection(database_url) as admin:
        for driver in drivers:
            pid = driver.get_server_pid()
            assert await admin.fetchval("SELECT pg_terminate_backend($1, 5000)", pid)
    for driver in drivers:
        await until_closed(driver)

    for path in ("/items", "/items?sort=-name", "/health", "/health/ready"):
        assert (await client.get(path)).status_code == 200


async def test_a_pool_without_a_connection_left_gives_up(settings: Settings) -> None:
    changes = {"pool_size": 1, "max_overflow": 0, "pool_timeout": 0.05}
    engine = create_engine(settings.model_copy(update=changes))
    async with engine.connect():
        with pytest.raises(PoolTimeoutError):
            await engine.connect()
    await engine.dispose()


async def test_the_engine_lives_as_long_as_the_lifespan(
    settings: Settings, database_url: str
) -> None:
    app = create_app(settings)
    assert not hasattr(app.state, "engine")
    async with connection(database_url) as admin:

        async def backends() -> set[int]:
            rows = await admin.fetch(
                "SELECT pid FROM pg_stat_activity WHERE datname = current_database()"
                " AND application_name = 'items-service'"
            )
            return {row["pid"] for row in rows}

        before = await backends()
        async with app.router.lifespan_context(app):
            engine = app.state.engine
            assert await backends() <= before  # it connects when first used
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                for _ in range(5):
                    assert (await client.get("/health")).status_code == 200
            assert app.state.engine is engine
            own = await backends() - before
            assert len(own) == 1  # one after the other, they used the same

        async with asyncio.timeout(TIMEOUT):
            while await backends() & own:  # noqa: ASYNC110 (they end by themselves)
                await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/items", {"name": "New"}),
        ("PUT", "/items/1", {"name": "New"}),
        ("PATCH", "/items/1", {"name": "New"}),
        ("DELETE", "/items/1", None),
        ("DELETE", "/items/1?permanent=true", None),
    ],
)
async def test_a_commit_that_fails_is_an_error(
    app: FastAPI, client: httpx.AsyncClient, database_url: str, method: str, path: str, body: object
) -> None:
    before = (await client.post("/items", json={"name": "Old"})).json()
    async with connection(database_url) as admin:
        await admin.execute(REFUSE_COMMITS)
        try:
            answer = await client.request(method, path, json=body)
        finally:
            await admin.execute("DROP FUNCTION refuse CASCADE")

    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert (await client.get("/items")).json()["items"] == [before]


async def test_get_db_commits_before_the_answer(app: FastAPI, client: httpx.AsyncClient) -> None:
    async def store(session: Session, is_fine: bool) -> None:
        await crud.create_many(session, [{"name": "Kept" if is_fine else "Lost"}])
        if not is_fine:  # in a way that the commit is the first to notice
            column = "number int UNIQUE DEFERRABLE INITIALLY DEFERRED"
            await session.execute(text(f"CREATE TEMP TABLE once ({column}) ON COMMIT DROP"))
            await session.execute(text("INSERT INTO once VALUES (1), (1)"))

    app.add_api_route("/store", store, methods=["POST"])

    assert (await client.post("/store?is_fine=true")).status_code == 200
    assert (await client.post("/store?is_fine=false")).status_code == 422
    assert [item["name"] for item in (await client.get("/items")).json()["items"]] == ["Kept"]


async def test_what_the_body_meets_is_no_fault_of_the_client(
    app: FastAPI, client: httpx.AsyncClient
) -> None:
    """FastAPI answers 400 to whatever is raised while it reads one."""

    async def store(session: Session, body: ItemCreate) -> None:
        raise AssertionError

    router = APIRouter(route_class=StrictRoute)
    router.add_api_route("/store", store, methods=["POST"])
    app.include_router(router)

    app.state.room.left = 0
    for path in ("/store", "/items", "/items/bulk"):
        answer = await client.post(path, json={"name": "Lamp"})
        assert answer.status_code == 503
        assert answer.headers["retry-after"] == "1"


async def test_get_db_rolls_back_on_an_error(app: FastAPI, client: httpx.AsyncClient) -> None:
    async def fail(session: Session) -> None:
        await crud.create_many(session, [{"name": "Gone"}])
        raise RuntimeError

    app.add_api_route("/fail", fail, methods=["POST"])

    assert (await client.post("/fail")).status_code == 500
    assert (await client.get("/items")).json()["items"] == []
    assert app.state.engine.pool.checkedout() == 0
