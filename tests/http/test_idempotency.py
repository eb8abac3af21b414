"""Idempotency-Key: a request that is sent again is not done again, whatever happens between."""

import asyncio
import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import event, text

from service.database import transactional
from service.keys import create_key, parse_keys
from service.main import create_app
from service.settings import Settings
from tests.support.apps import client_of, serving, tolerate_locks
from tests.support.commands import run
from tests.support.processes import Server, holding, query, running, script

PATIENCE = 20.0  # seconds until something that has to happen counts as not happening
LAMP: Any = {"name": "Lamp", "price": 29.99}
TORCH: Any = {"name": "Torch"}
PATHS = ["/items", "/items/bulk"]
BODIES: dict[str, Any] = {"/items": LAMP, "/items/bulk": {"items": [LAMP, TORCH]}}
OTHER_BODIES: dict[str, Any] = {"/items": TORCH, "/items/bulk": {"items": [TORCH, LAMP]}}
ROWS = {"/items": 1, "/items/bulk": 2}  # that each of those bodies makes

# A worker that dies when the answers to two requests marked so are about to be sent.
MORTAL_WORKER = """
import asyncio
import os
import signal

from service.worker import Worker


class MortalWorker(Worker):
    def load_wsgi(self):
        super().load_wsgi()
        app, dying = self.wsgi, []

        async def mortal_app(scope, receive, send):
            async def die_or_send(message):
                if (b"x-die", b"now") in scope["headers"]:
                    dying.append(scope)
                    if len(dying) == 2:
                        os.kill(os.getpid(), signal.SIGKILL)
                    await asyncio.Event().wait()
                await send(message)

            await app(scope, receive, die_or_send if scope["type"] == "http" else send)

        self.wsgi = mortal_app
"""


@pytest.fixture
def settings(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A service that bears the locks and the crowds of these tests on a busy machine."""
    return tolerate_locks(settings, monkeypatch)


async def post(
    client: httpx.AsyncClient, path: str, key: str, body: Any = None, **headers: str
) -> httpx.Response:
    """Post `body`, or the one that belongs to the path, with an Idempotency-Key."""
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return await client.post(
        path, json=body or BODIES[path], headers={"Idempotency-Key": key, **names}
    )


async def post_raw(
    client: httpx.AsyncClient, path: str, content: str, *keys: bytes
) -> httpx.Response:
    """Post `content` with as many Idempotency-Keys, byte for byte."""
    headers = [(b"content-type", b"application/json"), *((b"idempotency-key", key) for key in keys)]
    return await client.post(path, content=content, headers=headers)


async def post_when_free(client: httpx.AsyncClient, path: str, key: str) -> httpx.Response:
    """Post again and again until PostgreSQL has noticed that the request before is dead."""
    deadline = time.monotonic() + PATIENCE
    while (answer := await post(client, path, key)).status_code == 409:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)
    return answer


def is_replay(answer: httpx.Response) -> bool:
    """Whether it repeats an answer."""
    assert answer.status_code == 201, answer.text
    assert answer.headers.get("idempotency-replayed") in ("true", None)
    return "idempotency-replayed" in answer.headers


def check_problem(answer: httpx.Response, status: int, kind: str) -> None:
    assert answer.status_code == status, answer.text
    assert answer.json()["type"] == f"urn:items-service:{kind}"
    assert answer.headers["content-type"] == "application/problem+json"
    assert "idempotency-replayed" not in answer.headers


async def execute(app: FastAPI, *statements: str) -> None:
    async with app.state.engine.connect() as conn:
        for statement in statements:
            await conn.execute(text(statement))


async def fetch(app: FastAPI, statement: str) -> list[Any]:
    """The rows of one statement, each a tuple."""
    async with app.state.engine.connect() as conn:
        return [tuple(row) for row in await conn.execute(text(statement))]


async def stored(app: FastAPI) -> tuple[int, int]:
    """How many items there are, and how many keys."""
    ((items, keys),) = await fetch(
        app, "SELECT (SELECT count(*) FROM items), (SELECT count(*) FROM idempotency_keys)"
    )
    return items, keys


async def wait_for_a_lock(app: FastAPI) -> None:
    """Wait until a statement waits for a lock."""
    waiting = (
        "SELECT pid FROM pg_stat_activity"
        " WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    deadline = time.monotonic() + PATIENCE
    while not await fetch(app, waiting):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


@asynccontextmanager
async def in_flight(
    app: FastAPI, client: httpx.AsyncClient, path: str, key: str
) -> AsyncIterator[asyncio.Task[httpx.Response]]:
    """A request whose transaction has stored its items, and until the end waits to store `key`."""
    blocker = text(
        "INSERT INTO idempotency_keys (owner, key, fingerprint, status, headers, body, expires_at)"
        " VALUES ('', :key, '', 0, '[]', '', now())"
    )
    async with transactional(app.state.engine).connect() as conn:
        await conn.execute(blocker, {"key": key})
        request = asyncio.create_task(post(client, path, key))
        await wait_for_a_lock(app)
        yield request
        await conn.rollback()


@asynccontextmanager
async def refused_commits(app: FastAPI, table: str, sqlstate: str) -> AsyncIterator[None]:
    """Transactions that put anything into `table` fail at their very end meanwhile."""
    await execute(
        app,
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS"
        f" $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = '{sqlstate}'; END $$",
        f"CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON {table}"
        " DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION refuse()",
    )
    try:
        yield
    finally:
        await execute(app, "DROP FUNCTION refuse() CASCADE")


# The same again


@pytest.mark.parametrize("path", PATHS)
async def test_the_same_request_gets_the_first_answer_again(
    app: FastAPI, client: httpx.AsyncClient, path: str
) -> None:
    first = await post(client, path, "k", x_request_id="one")
    for id_ in ("two", "three"):
        again = await post(client, path, "k", x_request_id=id_)

        assert (again.status_code, again.content) == (201, first.content)
        expected = [
            *first.headers.multi_items(),
            ("idempotency-replayed", "true"),
            ("x-request-id", id_),
        ]
        expected.remove(("x-request-id", "one"))
        assert sorted(again.headers.multi_items()) == sorted(expected)

    assert not is_replay(first)
    assert first.headers["content-type"] == "application/json"
    assert ("location" in first.headers, "etag" in first.headers) == (path == "/items",) * 2
    assert await stored(app) == (ROWS[path], 1)


async def test_the_first_answer_stays_when_the_item_has_changed_and_gone(
    app: FastAPI, client: httpx.AsyncClient
) -> None:
    first = await post(client, "/items", "k")
    await client.patch(first.headers["location"], json={"name": "Changed"})
    changed = await post(client, "/items", "k")
    await client.delete(f"{first.headers['location']}?permanent=true")
    gone = await post(client, "/items", "k")

    assert changed.content == gone.content == first.content
    assert changed.headers["etag"] == gone.headers["etag"] == first.headers["etag"]
    assert await stored(app) == (0, 1)


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("/items", '{"name":"Lamp","price":29.99}'),
        ("/items", '\r\n\t{ "price" : 29.99 ,\n "name" : "Lamp" }  '),
        ("/items", '{"id": 7, "colour": {"of": ["red"]}, "name": "Lamp", "price": 29.99}'),
        ("/items", '{"name": "L\\u0061mp", "price": 29.99}'),
        ("/items/bulk", '{"items":[{"price":29.99,"name":"Lamp"},{"name":"Torch"}]}'),
        (
            "/items/bulk",
            '{"z": 0, "items": [{"name": "Lamp", "id": 1, "price": 29.99},\n{"name": "Torch"}]}',
        ),
    ],
)
async def test_whitespace_order_and_ignored_members_make_no_other_request(
    app: FastAPI, client: httpx.AsyncClient, path: str, content: str
) -> None:
    first = await post(client, path, "k")
    again = await post_raw(client, path, content, b"k")

    assert is_replay(again)
    assert again.content == first.content
    assert await stored(app) == (ROWS[path], 1)


@pytest.mark.parametrize(
    ("path", "other_path", "other_body"),
    [
        ("/items", "/items", {"name": "Lamp"}),
        ("/items", "/items", {"name": "lamp", "price": 29.99}),
        ("/items", "/items", {"name": "Lamp", "price": 29.98}),
        ("/items", "/items", {"name": "Lamp", "price": 29.99, "description": ""}),
        ("/items", "/items", {"name": "Lamp", "price": 29.99, "is_active": False}),
        ("/items", "/items/bulk", {"items": [LAMP]}),
        ("/items", "/items/bulk", {"items": [TORCH], **LAMP}),
        ("/items/bulk", "/items/bulk", {"items": [TORCH, LAMP]}),
        ("/items/bulk", "/items/bulk", {"items": [LAMP]}),
        ("/items/bulk", "/items/bulk", {"items": [LAMP, TORCH, TORCH]}),
        ("/items/bulk", "/items/bulk", {"items": [LAMP, {**TORCH, "price": 0}]}),
        ("/items/bulk", "/items", LAMP),
        ("/items/bulk", "/items", {"name": "Lamp", "items": [LAMP, TORCH]}),
    ],
)
async def test_another_request_with_the_same_key_is_refused(
    app: FastAPI, client: httpx.AsyncClient, path: str, other_path: str, other_body: Any
) -> None:
    first = await post(client, path, "k")
    check_problem(await post(client, other_path, "k", other_body), 422, "idempotency-key-reused")
    again = await post(client, path, "k")

    assert is_replay(again)
    assert again.content == first.content
    assert await stored(app) == (ROWS[path], 1)


# At the same time


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("before", ["nothing", "an expired key"])
async def test_a_hundred_at_once_with_one_key_make_one_row(
    app: FastAPI, client: httpx.AsyncClient, settings: Settings, path: str, before: str
) -> None:
    if before == "an expired key":
        await post(client, path, "k", OTHER_BODIES[path])
        await execute(app, "UPDATE idempotency_keys SET expires_at = now()", "TRUNCATE items")
    async with serving(create_app(settings)) as other_worker, asyncio.timeout(PATIENCE):
        answers = await asyncio.gather(
            *(post(worker, path, "k") for _ in range(50) for worker in (client, other_worker))
        )
        last = await post(other_worker, path, "k")

    created = [answer for answer in answers if answer.status_code == 201]
    for answer in answers:
        if answer.status_code != 201:
            check_problem(answer, 409, "in-progress")
    assert {answer.content for answer in created} == {last.content}
    assert [is_replay(answer) for answer in created].count(False) == 1
    assert is_replay(last)
    assert await stored(app) == (ROWS[path], 1)


async def test_different_requests_at_once_with_one_key_do_not_both_happen(
    app: FastAPI, client: httpx.AsyncClient, settings: Settings
) -> None:
    requests = [(path, body[path]) for path in PATHS for body in (BODIES, OTHER_BODIES)]
    async with serving(create_app(settings)) as other_worker, asyncio.timeout(PATIENCE):
        answers = await asyncio.gather(
            *(
                post(worker, path, "k", body)
                for _ in range(10)
                for path, body in requests
                for worker in (client, other_worker)
            )
        )

    created = [answer for answer in answers if answer.status_code == 201]
    (winner,) = {answer.request.url.path for answer in created}
    assert len({answer.content for answer in created}) == 1
    assert {answer.status_code for answer in answers} <= {201, 409, 422}
    assert await stored(app) == (ROWS[winner], 1)


async def test_a_hundred_at_once_with_a_key_each_share_few_connections(
    settings: Settings,
) -> None:
    settings.pool_size, settings.max_overflow = 2, 0
    app = create_app(settings)
    async with app.router.lifespan_context(app), client_of(app) as client:
        await execute(app, "TRUNCATE items, idempotency_keys")
        async with asyncio.timeout(PATIENCE):
            answers = await asyncio.gather(
                *(post(client, path, f"{path} {n}") for n in range(50) for path in PATHS),
                *(client.post("/items", json=TORCH) for _ in range(50)),
            )

        assert not any(is_replay(answer) for answer in answers)
        assert await stored(app) == (50 * 1 + 50 * 2 + 50, 100)


@pytest.mark.parametrize("path", PATHS)
async def test_one_still_in_flight_is_a_409_and_its_answer_can_be_had_later(
    app: FastAPI, client: httpx.AsyncClient, path: str
) -> None:
    async with asyncio.timeout(PATIENCE), in_flight(app, client, path, "k") as request:
        for other_path in PATHS:
            for bodies in (BODIES, OTHER_BODIES):
                answer = await post(client, other_path, "k", bodies[other_path])
                check_problem(answer, 409, "in-progress")
        # Nobody else waits for it.
        assert not is_replay(await post(client, "/items", "another"))
        assert (await client.post("/items", json=LAMP)).status_code == 201
        assert await stored(app) == (2, 1)
    first = await request

    assert not is_replay(first)
    again = await post(client, path, "k")
    assert is_replay(again)
    assert again.content == first.content
    assert await stored(app) == (2 + ROWS[path], 2)


async def test_a_409_says_when_to_try_again(app: FastAPI, client: httpx.AsyncClient) -> None:
    async with asyncio.timeout(PATIENCE), in_flight(app, client, "/items", "k") as request:
        answer = await post(client, "/items", "k")
    await request

    assert answer.status_code == 409
    assert int(answer.headers["retry-after"]) > 0


@pytest.mark.parametrize("path", PATHS)
async def test_a_request_whose_client_went_away_leaves_all_or_nothing(
    app: FastAPI, client: httpx.AsyncClient, path: str
) -> None:
    async with asyncio.timeout(PATIENCE), in_flight(app, client, path, "k") as request:
        request.cancel()
        await asyncio.wait([request])
    left = await stored(app)
    assert left in ((0, 0), (ROWS[path], 1))

    assert is_replay(await post_when_free(client, path, "k")) == (left != (0, 0))
    assert await stored(app) == (ROWS[path], 1)


# Failures


@pytest.mark.parametrize("path", PATHS)
async def test_a_lost_connection_is_a_503_that_stores_nothing(
    app: FastAPI, client: httpx.AsyncClient, path: str
) -> None:
    async with asyncio.timeout(PATIENCE), in_flight(app, client, path, "k") as request:
        while not request.done():  # it is tried twice
            await execute(
                app,
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND wait_event_type = 'Lock'",
            )
            await asyncio.sleep(0.05)
        check_problem(await request, 503, "unavailable")
    assert await stored(app) == (0, 0)

    assert not is_replay(await post_when_free(client, path, "k"))
    assert await stored(app) == (ROWS[path], 1)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("table", "sqlstate", "status", "kind"),
    [
        ("items", "23514", 422, "invalid-input"),
        ("items", "55P03", 503, "unavailable"),
        ("idempotency_keys", "40001", 503, "unavailable"),
        ("idempotency_keys", "P0001", 500, "internal-error"),
    ],
)
async def test_a_commit_that_fails_leaves_neither_rows_nor_key(
    app: FastAPI,
    client: httpx.AsyncClient,
    path: str,
    table: str,
    sqlstate: str,
    status: int,
    kind: str,
) -> None:
    async with refused_commits(app, table, sqlstate):
        for _ in range(2):
            check_problem(await post(client, path, "k"), status, kind)
        assert await stored(app) == (0, 0)

    assert not is_replay(await post(client, path, "k", OTHER_BODIES[path]))
    assert await stored(app) == (ROWS[path], 1)


@pytest.mark.parametrize("path", PATHS)
async def test_the_key_is_stored_in_the_transaction_of_the_rows(
    app: FastAPI, client: httpx.AsyncClient, path: str
) -> None:
    await post(client, path, "k")
    rows = await fetch(app, "SELECT xmin::text FROM items")

    assert rows == [(xmin,) for (xmin,) in rows[:1]] * ROWS[path]
    assert await fetch(app, "SELECT xmin::text FROM idempotency_keys") == rows[:1]


@pytest.mark.parametrize(
    ("path", "content", "status"),
    [
        ("/items", '{"name": ""}', 422),
        ("/items", '{"name": "Lamp"', 422),
        ("/items", '{"name": "Lamp"}'.ljust(2000), 413),
        ("/items/bulk", '{"items": []}', 422),
        ("/items/bulk", '{"items": [{"name": "Lamp"}, {"price": 1}]}', 422),
        ("/items/bulk", '{"items": [{"name": "Lamp"}]}'.ljust(2000), 413),
    ],
)
async def test_a_refused_request_stores_nothing_and_its_key_may_be_used_again(
    app: FastAPI,
    client: httpx.AsyncClient,
    settings: Settings,
    path: str,
    content: str,
    status: int,
) -> None:
    settings.max_body_bytes = settings.max_bulk_bytes = 1000
    for _ in range(2):
        answer = await post_raw(client, path, content, b"k")
        assert answer.status_code == status
        assert not answer.json()["type"].endswith("reused")
    assert await stored(app) == (0, 0)

    assert not is_replay(await post(client, path, "k"))
    assert await stored(app) == (ROWS[path], 1)


def test_a_worker_killed_between_commit_and_answer_makes_one_row(
    database_url: str, tmp_path: Path
) -> None:
    (tmp_path / "mortal.py").write_text(MORTAL_WORKER)
    env = {"DATABASE_URL": database_url, "WEB_CONCURRENCY": "1"}
    mortal = {
        "PYTHONPATH": str(tmp_path),
        "GUNICORN_CMD_ARGS": "--worker-class mortal.MortalWorker",
    }
    name = secrets.token_hex(8)
    bodies = {"/items": {"name": name}, "/items/bulk": {"items": [{"name": name}] * 2}}

    def send(server: Server, path: str, key: str, **headers: str) -> httpx.Response:
        headers["Idempotency-Key"] = name + key
        return httpx.post(server.url + path, json=bodies[path], headers=headers, timeout=PATIENCE)

    def stored_ids() -> list[int]:
        rows = query(database_url, f"SELECT id FROM items WHERE name = '{name}' ORDER BY id")
        return [id_ for (id_,) in rows]

    with running("serve", env=env | mortal) as server, ThreadPoolExecutor() as pool:
        for lost in [pool.submit(send, server, path, path, **{"X-Die": "now"}) for path in bodies]:
            with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
                lost.result()
    committed = stored_ids()
    assert len(committed) == 3

    with running("serve", env=env) as server:
        one, many = (send(server, path, path) for path in bodies)
        assert is_replay(one)
        assert is_replay(many)
        assert stored_ids() == committed
        # It was the keys that kept them from happening twice.
        assert not is_replay(send(server, "/items", "another"))
    assert sorted(item["id"] for item in [one.json(), *many.json()["items"]]) == committed
    assert len(stored_ids()) == 4


# Expiry


async def test_a_key_is_kept_for_idempotency_ttl(
    app: FastAPI, client: httpx.AsyncClient, settings: Settings
) -> None:
    settings.idempotency_ttl = 1000
    await post(client, "/items", "k")
    await post(client, "/items", "k")
    ((left,),) = await fetch(
        app, "SELECT extract(epoch FROM expires_at - now())::float8 FROM idempotency_keys"
    )

    assert 900 < left <= 1000
    assert Settings.model_fields["idempotency_ttl"].default == 24 * 3600


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("bodies", [BODIES, OTHER_BODIES], ids=["same body", "other body"])
async def test_an_expired_key_is_a_new_one_and_replaces_the_answer(
    app: FastAPI, client: httpx.AsyncClient, path: str, bodies: dict[str, Any]
) -> None:
    old = await post(client, path, "k")
    await execute(app, "UPDATE idempotency_keys SET expires_at = now() - interval '1 second'")

    new = await post(client, path, "k", bodies[path])
    assert not is_replay(new)
    assert new.content != old.content
    assert await stored(app) == (2 * ROWS[path], 1)

    again = await post(client, path, "k", bodies[path])
    assert is_replay(again)
    assert again.content == new.content
    third = {"/items": {"name": "Third"}, "/items/bulk": {"items": [TORCH]}}
    check_problem(await post(client, path, "k", third[path]), 422, "idempotency-key-reused")
    assert await stored(app) == (2 * ROWS[path], 1)


def fill_keys(url: str, expired: int, fresh: int) -> None:
    """Make these the only keys: some expired long ago, one this moment; the others not yet."""
    script(
        url,
        f"""
        TRUNCATE idempotency_keys;
        INSERT INTO idempotency_keys
        SELECT 'shop', 'old ' || n, '', 201, '[]', '', now() - (n - 1) * interval '1 minute'
        FROM generate_series(1, {expired}) n;
        INSERT INTO idempotency_keys
        SELECT 'shop', 'new ' || n, '', 201, '[]', '', now() + n * interval '1 minute'
        FROM generate_series(1, {fresh}) n;
        """,
    )


def test_purge_deletes_what_has_expired_in_small_batches(database_url: str) -> None:
    fill_keys(database_url, expired=4500, fresh=500)
    script(
        database_url,
        """
        CREATE TABLE batches (id xid8, size bigint);
        CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            INSERT INTO batches SELECT pg_current_xact_id(), count(*) FROM gone;
            RETURN NULL;
        END $$;
        CREATE TRIGGER note AFTER DELETE ON idempotency_keys REFERENCING OLD TABLE AS gone
            FOR EACH STATEMENT EXECUTE FUNCTION note();
        """,
    )
    try:
        ran, again = (run("items", "purge", env={"DATABASE_URL": database_url}) for _ in range(2))
        batches = query(
            database_url, "SELECT sum(size)::int FROM batches GROUP BY id HAVING sum(size) > 0"
        )
    finally:
        script(database_url, "DROP TABLE batches; DROP FUNCTION note() CASCADE")

    assert ran.stdout == "Deleted 4500 expired idempotency keys\n"
    assert again.stdout == "Deleted 0 expired idempotency keys\n"
    # Each in a transaction of its own.
    assert sum(size for (size,) in batches) == 4500
    assert max(size for (size,) in batches) <= 1000
    left = "SELECT count(*), count(*) FILTER (WHERE key LIKE 'new %') FROM idempotency_keys"
    assert query(database_url, left) == [(500, 500)]


def test_purge_neither_waits_for_nor_deletes_a_key_that_is_renewed(database_url: str) -> None:
    fill_keys(database_url, expired=3, fresh=0)
    renew = "UPDATE idempotency_keys SET expires_at = now() + interval '1 day' WHERE key = 'old 2'"
    with holding(database_url, f"BEGIN; {renew}"):
        ran = run("items", "purge", env={"DATABASE_URL": database_url})

    assert ran.stdout == "Deleted 2 expired idempotency keys\n"
    assert query(database_url, "SELECT key FROM idempotency_keys") == [("old 2",)]


# Whose key it is


@pytest.mark.parametrize("path", PATHS)
async def test_two_clients_may_use_one_key_independently(settings: Settings, path: str) -> None:
    made = [create_key(name, ["items:write"]) for name in ("shop", "till", "shop")]
    settings.api_keys = parse_keys(" ".join(entry for _, entry in made))
    shop, till, rotated_shop = ({"authorization": f"Bearer {secret}"} for secret, _ in made)
    app = create_app(settings)
    async with app.router.lifespan_context(app), client_of(app) as client:
        await execute(app, "TRUNCATE items, idempotency_keys")
        first = await post(client, path, "k", **shop)
        others = await post(client, path, "k", OTHER_BODIES[path], **till)

        assert not is_replay(first)
        assert not is_replay(others)
        # A client stays the same when its secret changes.
        for headers in (shop, rotated_shop):
            again = await post(client, path, "k", **headers)
            assert is_replay(again)
            assert again.content == first.content
        again = await post(client, path, "k", OTHER_BODIES[path], **till)
        assert is_replay(again)
        assert again.content == others.content
        check_problem(await post(client, path, "k", **till), 422, "idempotency-key-reused")
        check_problem(await post(client, path, "k"), 401, "unauthorized")
        assert await stored(app) == (2 * ROWS[path], 2)


# How a key is written


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (b"abc", b'"abc"'),
        (b"8e03978e-40d5-43dd-bc93-6894a57f9324", b'"8e03978e-40d5-43dd-bc93-6894a57f9324"'),
        (b'a"b"', rb'"a\"b\""'),
        (rb"a\b", rb'"a\\b"'),
        (rb"a\"b", rb'"a\\\"b"'),
        (rb"a\\b", rb'"a\\\\b"'),
        (b"a b,c; d=1", b'"a b,c; d=1"'),
        (b"abc", b' \t"abc"\t '),
        (b"x" * 255, b'"' + b"x" * 255 + b'"'),
        (b"x" + b'"' * 254, b'"x' + rb"\"" * 254 + b'"'),
        (b"' OR 1=1; DROP TABLE items; --%s:k", b'"\' OR 1=1; DROP TABLE items; --%s:k"'),
    ],
)
async def test_a_key_is_the_same_with_quotes_and_without(
    app: FastAPI, client: httpx.AsyncClient, one: bytes, other: bytes
) -> None:
    first = await post_raw(client, "/items", '{"name": "Lamp"}', one)
    again = await post_raw(client, "/items", '{"name": "Lamp"}', other)

    assert not is_replay(first)
    assert is_replay(again)
    assert await fetch(app, "SELECT key FROM idempotency_keys") == [(one.decode(),)]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (b"abc", b"ABC"),
        (b"a b", b"a  b"),
        (b"abc", b'" abc"'),
        (rb"a\\b", rb'"a\\b"'),
        (b"x" * 255, b"x" * 254),
        (b"1", b"01"),
    ],
)
async def test_keys_that_differ_at_all_are_different(
    app: FastAPI, client: httpx.AsyncClient, one: bytes, other: bytes
) -> None:
    for key in (one, other):
        assert not is_replay(await post_raw(client, "/items", '{"name": "Lamp"}', key))

    assert await stored(app) == (2, 2)


@pytest.mark.parametrize(
    "keys",
    [
        [b""],
        [b" \t "],
        [b'""'],
        [b"x" * 256],
        [b'"' + b"x" * 256 + b'"'],
        [b'"' + rb"\"" * 256 + b'"'],
        [b"x" * 1_000_000],
        [b'"abc'],
        [b'"'],
        [b'"abc\\"'],
        [b'"a"b"'],
        [b'"abc"d'],
        [rb'"a\bc"'],
        [b"a\tb"],
        [b'"a\tb"'],
        [b"a\x00b"],
        [b'"a\x00b"'],
        [b"a\x7fb"],
        [b"\x1fabc"],
        [b"abc\x0b"],
        ["clé".encode()],
        ['"clé"'.encode()],
        [b"cl\xe9"],
        [b"\xa0abc"],
        [b'"abc"\x85'],
        [b"abc", b"abc"],
        [b"abc", b"def"],
        [b"abc", b""],
        [b'"abc"', b"abc"],
    ],
    ids=lambda keys: f"{b'+'.join(keys)!r:.30}",
)
async def test_a_key_that_is_not_well_formed_is_a_400(
    app: FastAPI, client: httpx.AsyncClient, keys: list[bytes]
) -> None:
    for path, content in (
        ("/items", '{"name": "Lamp"}'),
        ("/items/bulk", '{"items": [{"name": "Lamp"}]}'),
    ):
        check_problem(await post_raw(client, path, content, *keys), 400, "bad-request")

    assert await stored(app) == (0, 0)


# Without


async def test_without_a_key_nothing_is_stored_and_requests_are_coalesced(
    app: FastAPI, client: httpx.AsyncClient
) -> None:
    sent: list[str] = []

    def note(conn: Any, cursor: Any, statement: str, *rest: Any) -> None:
        sent.append(statement.split()[0])

    event.listen(app.state.engine.sync_engine, "before_cursor_execute", note)
    answers = await asyncio.gather(*(client.post("/items", json=LAMP) for _ in range(50)))
    event.remove(app.state.engine.sync_engine, "before_cursor_execute", note)
    bulk = [await client.post("/items/bulk", json=BODIES["/items/bulk"]) for _ in range(2)]

    assert sent == ["INSERT"]
    assert not any(is_replay(answer) for answer in (*answers, *bulk))
    ids = Counter(answer.json()["id"] for answer in answers)
    ids.update(item["id"] for answer in bulk for item in answer.json()["items"])
    assert ids == Counter(range(1, 55))
    assert await stored(app) == (54, 0)
