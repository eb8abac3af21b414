"""The coalesced calls on items, in the real application on the real database."""

import asyncio
import gc
import random
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from decimal import Decimal
from itertools import count
from typing import Any

import httpx2 as httpx
import pytest
from fastapi import FastAPI
from pydantic import SecretStr
from sqlalchemy import NullPool, event, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from service.crud import item as crud
from service.database import is_data_fault, is_lost, transactional
from service.domain.item import ItemFilter, ItemQuery
from service.errors import Unavailable
from service.main import create_app
from service.models import Base
from service.problem import database_error
from service.routers.item import ItemCalls
from service.settings import Settings
from tests.support.apps import tolerate_locks

PATIENCE = 20.0  # seconds until something that has to happen counts as not happening
LAMP = {"name": "Lamp"}
DEAR = ItemQuery(ItemFilter(q="a"))
LOCK = 7  # an advisory lock's key
# The service's backends, and those of them whose statement waits for a lock.
OURS = (
    "FROM pg_stat_activity"
    " WHERE datname = current_database() AND application_name = 'items-service'"
)
WAITING = f"{OURS} AND wait_event_type = 'Lock'"


@pytest.fixture
def settings(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A service that bears the locks of these tests for as long as a busy machine takes."""
    return tolerate_locks(settings, monkeypatch)


@pytest.fixture(autouse=True)
async def nobody_complains() -> AsyncIterator[None]:
    """asyncio has nothing to complain of after a test, such as an error that nobody heard of."""
    loop = asyncio.get_running_loop()
    handler = loop.get_exception_handler()
    complaints: list[Any] = []
    loop.set_exception_handler(lambda loop, context: complaints.append(context))
    gc.freeze()  # for a quick collection afterwards, of what the test left only
    yield
    gc.collect()
    gc.unfreeze()
    loop.set_exception_handler(handler)
    assert complaints == []


@pytest.fixture
async def admin(settings: Settings) -> AsyncIterator[AsyncConnection]:
    """A connection that is not the service's, in AUTOCOMMIT; its engine makes more."""
    engine = create_async_engine(settings.engine_url, poolclass=NullPool)
    async with engine.connect() as conn:
        yield await conn.execution_options(isolation_level="AUTOCOMMIT")


@pytest.fixture
def calls(app: FastAPI) -> ItemCalls:
    calls: ItemCalls = app.state.items
    return calls


@asynccontextmanager
async def worker(settings: Settings) -> AsyncIterator[tuple[FastAPI, httpx.AsyncClient]]:
    """One more worker: an application with a pool of its own, and a client of it."""
    app = create_app(settings)
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://test") as client,
    ):
        yield app, client


@asynccontextmanager
async def locked_items(admin: AsyncConnection) -> AsyncIterator[None]:
    """Nobody reads or writes items meanwhile."""
    async with admin.engine.begin() as conn:
        await conn.execute(text("LOCK TABLE items"))
        yield


async def wait_for_backends(admin: AsyncConnection, number: int, which: str) -> None:
    """Wait until there are so many, and no more."""
    found = None
    deadline = time.monotonic() + PATIENCE
    while found != number:
        assert time.monotonic() < deadline, f"{found} backends, not {number}"
        await asyncio.sleep(0.01)
        found = await admin.scalar(text(f"SELECT count(*) {which}"))


async def wait_for_sets(admin: AsyncConnection, number: int) -> None:
    """Wait until so many sets are under way and held up by a lock."""
    await wait_for_backends(admin, number, WAITING)


async def end_waiting(admin: AsyncConnection, function: str = "pg_terminate_backend") -> None:
    """End the backends whose statements wait for a lock, or the statements only."""
    await admin.execute(text(f"SELECT {function}(pid) {WAITING}"))


@contextmanager
def statements(app: FastAPI) -> Iterator[list[str]]:
    """The statements that the service sends meanwhile, each by its first word."""
    sent: list[str] = []

    def note(conn: Any, cursor: Any, statement: str, *rest: Any) -> None:
        sent.append(statement.split()[0])

    event.listen(app.state.engine.sync_engine, "before_cursor_execute", note)
    yield sent
    event.remove(app.state.engine.sync_engine, "before_cursor_execute", note)


def row(number: int) -> dict[str, Any]:
    return {"name": f"Item {number:05}", "price": Decimal(number)}


async def store(app: FastAPI, number: int) -> list[int]:
    """Store items; their ids."""
    async with transactional(app.state.engine).begin() as conn:
        return [item.id for item in await crud.create_many(conn, [row(n) for n in range(number)])]


async def stored_names(admin: AsyncConnection) -> list[str]:
    return list(await admin.scalars(text("SELECT name FROM items ORDER BY name")))


def start(*calls: Coroutine[Any, Any, Any]) -> list[asyncio.Task[Any]]:
    return [asyncio.create_task(call) for call in calls]


async def all_of(*calls: Any) -> list[Any]:
    """What the calls, made in one turn of the event loop, answer or raise."""
    async with asyncio.timeout(PATIENCE):
        return await asyncio.gather(*calls, return_exceptions=True)


def check_unavailable(answer: httpx.Response) -> None:
    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) > 0
    assert answer.json()["type"] == "urn:items-service:unavailable"


async def test_10000_concurrent_mixed_calls_get_each_its_own_answer(
    settings: Settings, admin: AsyncConnection, app: FastAPI
) -> None:
    settings.queue_limit = 10_000
    chance = random.Random(3)
    ids = await store(app, 500)  # what is created later comes after these in each sort below
    missing = range(10_001, 10_501)
    made: dict[str, list[Any]] = {
        "get": [*chance.choices(ids, k=3500), *missing],
        "create": [{"name": f"New {number}"} for number in range(3000)],
        "list": [
            ItemQuery(page=page, per_page=per_page, sort=sort)
            for sort in ("id", "name", "price", "created_at")
            for per_page in (1, 2, 3, 7, 10)
            for page in range(1, 49)
        ]
        * 3,
        "search": [ItemQuery(ItemFilter(q=f"item 00{number:03}")) for number in range(120)],
    }
    flat = [(kind, call) for kind, calls in made.items() for call in calls]
    assert len(flat) == 10_000
    chance.shuffle(flat)
    calls = ItemCalls(app.state.engine, settings)
    functions: dict[str, Callable[..., Any]] = {
        "get": calls.get,
        "create": calls.create,
        "list": calls.list,
        "search": calls.list,
    }

    with statements(app) as sent:
        answers = await all_of(*(functions[kind](call) for kind, call in flat))

    for (kind, call), answer in zip(flat, answers, strict=True):
        if kind == "get":
            assert (answer.id == call) if call in ids else (answer is None)
        elif kind == "create":
            assert answer.name == call["name"]
        else:
            q = call.filter.q
            first = int(q.split()[1]) if q else (call.page - 1) * call.per_page
            size = 1 if q else call.per_page
            assert [item.id for item in answer.items] == ids[first : first + size]
    new = {answer.id for (kind, _), answer in zip(flat, answers, strict=True) if kind == "create"}
    assert len(new) == 3000
    assert len(await stored_names(admin)) == 3500
    assert Counter(sent) == {"INSERT": 30, "SELECT": 40 + 4 * 8 + 120, "SET": 120}


async def test_a_hundred_calls_of_one_kind_cost_one_statement(
    app: FastAPI, calls: ItemCalls
) -> None:
    with statements(app) as sent:
        created = await all_of(*(calls.create(row(number)) for number in range(100)))
        await all_of(*(calls.get(item.id) for item in created))
        await all_of(*(calls.list(ItemQuery(page=page)) for page in range(1, 51)))

    assert sent == ["INSERT", "SELECT", "SELECT"]


async def test_concurrent_requests_of_one_kind_cost_one_statement(
    app: FastAPI, client: httpx.AsyncClient
) -> None:
    ids = await store(app, 50)
    with statements(app) as sent:
        answers = await all_of(
            *(client.post("/items", json=LAMP) for _ in ids),
            *(client.get(f"/items/{id_}") for id_ in ids),
            *(client.get(f"/items?page={page}") for page in range(1, 51)),
        )

    assert Counter(answer.status_code for answer in answers) == {201: 50, 200: 100}
    assert [answer.json()["id"] for answer in answers[50:100]] == ids
    assert [answer.json()["page"] for answer in answers[100:]] == [*range(1, 51)]
    assert Counter(sent) == {"INSERT": 1, "SELECT": 2}


# A bad row


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": "x" * 256},
        {"name": ""},
        {"name": None},
        {"name": "a\x00b"},
        {"name": "\ud800"},
        {"name": 5},
        {"description": "x" * 10_001},
        {"price": Decimal("10000000000")},
        {"price": Decimal("-0.01")},
        {"price": Decimal("Infinity")},
        {"is_active": None},
    ],
    ids=lambda wrong: f"{wrong!r:.30}",
)
async def test_a_bad_row_among_200_fails_alone(
    app: FastAPI, calls: ItemCalls, admin: AsyncConnection, wrong: dict[str, Any]
) -> None:
    rows = [row(number) for number in range(200)]
    rows[117] |= wrong
    with statements(app) as sent:
        answers = await all_of(*(calls.create(row) for row in rows))

    bad = answers.pop(117)
    del rows[117]
    assert isinstance(bad, DBAPIError)
    assert is_data_fault(bad)
    assert [answer.name for answer in answers] == [row["name"] for row in rows]
    assert await stored_names(admin) == [row["name"] for row in rows]
    assert sent == ["INSERT"] * (2 + 100)  # the set without it was not taken apart


async def test_an_id_that_no_item_can_have_fails_alone(app: FastAPI, calls: ItemCalls) -> None:
    ids = await store(app, 20)
    *found, fault = await all_of(*(calls.get(id_) for id_ in [*ids, 2**63]))

    assert [item.id for item in found] == ids
    assert is_data_fault(fault)


async def test_several_bad_rows_fail_each_with_its_own_error(calls: ItemCalls) -> None:
    long, good, nul = await all_of(
        calls.create({"name": "x" * 256}),
        calls.create({"name": "good"}),
        calls.create({"name": "a\x00b"}),
    )

    assert "name_length" in str(long)
    assert good.name == "good"
    assert "name_length" not in str(nul)
    assert is_data_fault(nul)


# Every client reads its own writes


async def test_every_client_reads_its_own_writes_on_every_worker(
    client: httpx.AsyncClient, settings: Settings
) -> None:
    async def write_and_read(here: httpx.AsyncClient, there: httpx.AsyncClient, name: str) -> None:
        posted = await here.post("/items", json={"name": name})
        item = posted.json()
        for reader in (there, here):
            got, listed, searched = await asyncio.gather(
                reader.get(f"/items/{item['id']}"),
                reader.get("/items", params={"sort": "-id", "per_page": 100}),
                reader.get("/items", params={"q": name}),
            )
            assert got.json() == item
            assert item in listed.json()["items"]
            assert searched.json()["items"] == [item]
        changed = await there.patch(f"/items/{item['id']}", json={"price": 5})
        assert (await here.get(f"/items/{item['id']}")).json() == changed.json()
        assert changed.json()["version"] == 2

    async with worker(settings) as (_, other):
        workers = (client, other)
        for wave in range(2):
            async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as group:
                for number in range(40):
                    here, there = workers[number % 2], workers[1 - number % 2]
                    group.create_task(write_and_read(here, there, f"Mine {wave} {number:02}"))


# Callers that go away


@pytest.mark.parametrize("seed", range(8))
async def test_any_callers_may_go_away_at_any_moment(
    app: FastAPI, calls: ItemCalls, admin: AsyncConnection, seed: int
) -> None:
    chance = random.Random(seed)
    ids = await store(app, 100)
    before = len(asyncio.all_tasks())
    made: list[tuple[str, Any, asyncio.Task[Any]]] = []
    for number in range(300):
        kind = chance.choice(["get", "create", "create bad", "list", "search"])
        call: Any = chance.choice(ids)
        if kind.startswith("create"):
            call = {"name": f"New {number}", "price": Decimal(-1 if kind == "create bad" else 1)}
        elif kind in ("list", "search"):
            wanted = ItemFilter(q="item" if kind == "search" else None)
            call = ItemQuery(wanted, page=chance.randint(1, 50), per_page=2)
        function: Callable[..., Any] = getattr(calls, kind.split()[0].replace("search", "list"))
        made.append((kind, call, asyncio.create_task(function(call))))
        if chance.random() < 0.1:
            await asyncio.sleep(chance.choice([0, 0, 0.001, 0.005]))
        if chance.random() < 0.5:
            chance.choice(made)[2].cancel()
    await all_of(*(task for *_, task in made))

    names = Counter(await stored_names(admin))
    for kind, call, task in made:
        if task.cancelled():
            assert kind != "create" or names[call["name"]] <= 1
        elif kind == "get":
            assert task.result().id == call
        elif kind == "create":
            assert task.result().name == call["name"]
            assert names[call["name"]] == 1
        elif kind == "create bad":
            assert is_data_fault(task.exception())  # type: ignore[arg-type]  # it has one
            assert names[call["name"]] == 0
        else:
            first = (call.page - 1) * 2
            assert [item.id for item in task.result().items] == ids[first : first + 2]
    assert any(task.cancelled() for *_, task in made)
    await check_nothing_is_held(app, before)


async def check_nothing_is_held(app: FastAPI, tasks_before: int) -> None:
    """Sets whose callers have all gone end by themselves, and leave nothing behind."""
    deadline = time.monotonic() + PATIENCE
    while app.state.engine.pool.checkedout() or len(asyncio.all_tasks()) != tasks_before:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


async def test_clients_that_disconnect_leak_no_connection_and_disturb_nobody(
    app: FastAPI, client: httpx.AsyncClient, admin: AsyncConnection
) -> None:
    ids = await store(app, 60)
    before = len(asyncio.all_tasks())
    async with locked_items(admin):
        requests = start(
            *(client.get(f"/items/{id_}") for id_ in ids),
            *(client.post("/items", json=LAMP) for _ in ids),
        )
        await wait_for_sets(admin, 2)
        for request in requests[::2]:
            request.cancel()
        await asyncio.sleep(0)
    answers = await all_of(*requests)

    assert all(isinstance(answer, asyncio.CancelledError) for answer in answers[::2])
    assert [answer.status_code for answer in answers[1::2]] == [200] * 30 + [201] * 30
    assert [answer.json()["id"] for answer in answers[1:60:2]] == ids[1::2]
    await check_nothing_is_held(app, before)


# A database that fails


async def test_when_backends_are_killed_reads_are_sent_once_more_and_writes_never(
    app: FastAPI, calls: ItemCalls, admin: AsyncConnection
) -> None:
    ids = await store(app, 40)
    with statements(app) as sent:
        async with locked_items(admin):
            reads = start(*map(calls.get, ids), calls.list(ItemQuery()), calls.list(DEAR))
            writes = start(*(calls.create(LAMP) for _ in range(40)))
            await wait_for_sets(admin, 4)
            await end_waiting(admin)
            lost = await all_of(*writes)
            await wait_for_sets(admin, 3)
        *found, page, search = await all_of(*reads)

    assert all(is_lost(fault) for fault in lost)
    assert [item.id for item in found] == ids
    assert (page.total, search.total) == (40, 0)
    assert Counter(sent) == {"SELECT": 6, "INSERT": 1, "SET": 2}
    assert "Lamp" not in await stored_names(admin)


async def test_reads_that_are_lost_again_and_again_fail_and_hold_nothing(
    app: FastAPI, client: httpx.AsyncClient, admin: AsyncConnection
) -> None:
    before = len(asyncio.all_tasks())
    async with locked_items(admin):
        requests = start(client.get("/items"), client.get("/items/1"))
        for _ in range(4):  # a set is sent twice, and a request served twice
            await wait_for_sets(admin, 2)
            await end_waiting(admin)
        for answer in await all_of(*requests):
            check_unavailable(answer)
    await check_nothing_is_held(app, before)

    assert (await client.get("/items")).status_code == 200


async def test_a_statement_that_the_database_gave_up_is_not_sent_again(
    app: FastAPI, client: httpx.AsyncClient, admin: AsyncConnection
) -> None:
    with statements(app) as sent:
        async with locked_items(admin):
            requests = start(client.get("/items/1"), client.post("/items", json=LAMP))
            await wait_for_sets(admin, 2)
            await end_waiting(admin, "pg_cancel_backend")  # as a timeout does
            for answer in await all_of(*requests):
                check_unavailable(answer)

    assert Counter(sent) == {"SELECT": 1, "INSERT": 1}


async def test_a_write_whose_answer_is_lost_after_the_commit_is_there_once(
    settings: Settings, admin: AsyncConnection, monkeypatch: pytest.MonkeyPatch, app: FastAPI
) -> None:
    create_many = crud.create_many

    async def create_and_lose(conn: AsyncConnection, rows: Sequence[dict[str, Any]]) -> Any:
        await create_many(conn, rows)
        driver: Any = (await conn.get_raw_connection()).driver_connection
        driver.terminate()
        return await conn.execute(text("SELECT 1"))

    monkeypatch.setattr(crud, "create_many", create_and_lose)
    async with worker(settings) as (_, client):
        names = [f"Item {number:02}" for number in range(50)]
        answers = await all_of(*(client.post("/items", json={"name": name}) for name in names))

    for answer in answers:
        check_unavailable(answer)
    assert await stored_names(admin) == names


async def test_while_backends_die_no_row_is_stored_twice_and_none_that_was_answered_is_missing(
    app: FastAPI, calls: ItemCalls, admin: AsyncConnection
) -> None:
    ids = await store(app, 20)
    lost: set[str] = set()
    answered: set[str] = set()

    async def work() -> None:
        for wave in count():
            names = [f"New {wave} {number}" for number in range(25)]
            made = [*map(calls.create, ({"name": name} for name in names)), *map(calls.get, ids)]
            for wanted, answer in zip([*names, *ids], await all_of(*made), strict=True):
                if isinstance(answer, Exception):
                    assert isinstance(database_error(answer), Unavailable)
                else:
                    assert wanted in (answer.id, answer.name)
                if wanted in names:
                    (lost if isinstance(answer, Exception) else answered).add(wanted)
            if len(lost) > 100 and len(answered) > 100:
                return

    async with asyncio.timeout(PATIENCE):
        worker = asyncio.create_task(work())
        while not worker.done():
            await asyncio.sleep(random.uniform(0, 0.04))
            await admin.execute(
                text(f"SELECT pg_terminate_backend(pid) {OURS} ORDER BY random() LIMIT 1")
            )
    await worker

    stored = Counter(await stored_names(admin))
    assert max(stored.values()) == 1
    assert stored.keys() >= answered


async def test_when_the_database_goes_away_every_call_gets_503_and_later_all_is_well_again(
    settings: Settings, empty_database_url: str, admin: AsyncConnection
) -> None:
    settings.database_url = SecretStr(empty_database_url)
    name = settings.engine_url.database
    async with worker(settings) as (app, client):
        engine = create_async_engine(settings.engine_url, poolclass=NullPool)
        conn = await engine.connect()
        await conn.run_sync(Base.metadata.create_all)
        await conn.commit()
        await conn.execute(text("LOCK TABLE items"))
        watch = await engine.connect()
        await watch.execution_options(isolation_level="AUTOCOMMIT")
        requests = start(
            *(client.post("/items", json=LAMP) for _ in range(30)),
            *(client.get(path) for path in ("/items/1", "/items", "/items?q=a") for _ in range(30)),
        )
        await wait_for_sets(watch, 5)

        await admin.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
        for answer in await all_of(*requests):
            check_unavailable(answer)
        assert app.state.engine.pool.checkedout() == 0
        await conn.invalidate()
        await watch.invalidate()

        await admin.execute(text(f"CREATE DATABASE {name}"))
        async with engine.begin() as conn:
            await conn.run_sync(Base.metadata.create_all)
        assert (await client.post("/items", json=LAMP)).status_code == 201
        assert (await client.get("/items")).json()["total"] == 1


# Bounds


@pytest.mark.parametrize(
    ("method", "path", "sets", "limit"),
    [
        ("GET", "/items/1", 1, 3),
        ("GET", "/items", 2, 3),
        ("GET", "/items?q=a", 2, 15),  # of which a fifth is for searches
        ("POST", "/items", 1, 3),
    ],
)
async def test_past_the_queues_bound_requests_get_503_at_once(
    settings: Settings,
    admin: AsyncConnection,
    app: FastAPI,
    method: str,
    path: str,
    sets: int,
    limit: int,
) -> None:
    settings.queue_limit = limit
    await store(app, 1)
    async with worker(settings) as (_, client):

        def send() -> asyncio.Task[httpx.Response]:
            body = LAMP if method == "POST" else None
            return asyncio.create_task(client.request(method, path, json=body))

        async with locked_items(admin):
            served = []
            for number in range(1, sets + 1):
                served.append(send())
                await wait_for_sets(admin, number)
            served += [send() for _ in range(3)]
            await asyncio.sleep(0.1)
            for answer in await all_of(*(send() for _ in range(20))):
                check_unavailable(answer)
            assert not any(request.done() for request in served)
        for answer in await all_of(*served):
            assert answer.is_success


async def test_under_any_load_a_worker_holds_at_most_6_connections(
    app: FastAPI, calls: ItemCalls, admin: AsyncConnection
) -> None:
    ids = await store(app, 200)
    sorts = ["id", "-id", "name", "-name", "price"]
    async with locked_items(admin):
        made = start(
            *map(calls.get, ids),
            *(calls.create(LAMP) for _ in ids),
            *(calls.list(ItemQuery(sort=sort)) for _ in ids for sort in sorts),
            *(calls.list(DEAR) for _ in ids),
        )
        await wait_for_sets(admin, 6)
        assert app.state.engine.pool.checkedout() == 6
        assert await admin.scalar(text(f"SELECT count(*) {OURS}")) == 6
    most = 0
    while not all(task.done() for task in made):
        await asyncio.sleep(0)
        most = max(most, app.state.engine.pool.checkedout())

    assert most <= 6
    assert [task for task in made if task.exception()] == []


async def test_ten_slow_searches_hold_up_nothing_else(
    settings: Settings, admin: AsyncConnection, monkeypatch: pytest.MonkeyPatch, app: FastAPI
) -> None:
    search_pages = crud.search_pages

    async def search_slowly(conn: AsyncConnection, queries: Sequence[ItemQuery]) -> Any:
        await conn.execute(text(f"SELECT pg_advisory_lock_shared({LOCK})"))
        await conn.execute(text(f"SELECT pg_advisory_unlock_shared({LOCK})"))
        return await search_pages(conn, queries)

    monkeypatch.setattr(crud, "search_pages", search_slowly)
    ids = await store(app, 50)
    async with worker(settings) as (_, client):
        await admin.execute(text(f"SELECT pg_advisory_lock({LOCK})"))
        searches = start(*(client.get("/items?q=item") for _ in range(10)))
        await wait_for_sets(admin, 2)
        others = await all_of(
            *(client.get(f"/items/{id_}") for id_ in ids),
            *(client.get(f"/items?page={page}") for page in range(1, 51)),
            *(client.post("/items", json=LAMP) for _ in ids),
        )
        assert not any(search.done() for search in searches)
        await wait_for_sets(admin, 2)
        await admin.execute(text(f"SELECT pg_advisory_unlock({LOCK})"))
        found = await all_of(*searches)

    assert Counter(answer.status_code for answer in others) == {200: 100, 201: 50}
    assert [answer.json()["total"] for answer in found] == [50] * 10


async def test_a_service_that_stops_with_sets_under_way_leaves_no_backend(
    settings: Settings, admin: AsyncConnection
) -> None:
    may_stop = threading.Event()
    made: list[asyncio.Task[Any]] = []

    async def serve() -> None:
        async with worker(settings) as (app, _):
            made.extend(start(*map(app.state.items.get, range(300))))
            await asyncio.to_thread(may_stop.wait)

    async with locked_items(admin):
        service = asyncio.create_task(asyncio.to_thread(asyncio.run, serve()))
        await wait_for_sets(admin, 1)
        may_stop.set()
        await service
        await wait_for_backends(admin, 0, OURS)

    assert all(task.cancelled() for task in made)
