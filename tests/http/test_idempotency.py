"""Idempotency-Key: a repeated request is done once and gets the first response again."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2 as httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import text

from service.domain.api_key import create_key, parse_keys
from service.main import create_app
from service.settings import Settings
from service.state import state_of
from tests.support.apps import execute, serving
from tests.support.idempotency import (
    BODIES,
    OTHER_BODIES,
    PATHS,
    ROWS,
    TORCH,
    is_replay,
    post,
    post_raw,
    stored,
)
from tests.support.problems import check_problem
from tests.support.samples import LAMP
from tests.support.waiting import TIMEOUT


@asynccontextmanager
async def refused_commits(app: FastAPI, table: str, sqlstate: str) -> AsyncIterator[None]:
    """Make transactions that insert into `table` fail at their commit."""
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


@pytest.mark.parametrize("path", PATHS)
async def test_a_repeated_request_gets_the_first_response(
    app: FastAPI, client: httpx.AsyncClient, path: str
) -> None:
    first = await post(client, path, "k", x_request_id="one")
    for id_ in ("two", "three"):
        again = await post(client, path, "k", x_request_id=id_)

        assert (again.status_code, again.content) == (201, first.content)
        expected = {**first.headers, "idempotency-replayed": "true", "x-request-id": id_}
        assert dict(again.headers) == expected

    assert not is_replay(first)
    assert first.headers["content-type"] == "application/json"
    assert ("location" in first.headers, "etag" in first.headers) == (path == "/items",) * 2
    assert await stored(app) == (ROWS[path], 1)


async def test_the_first_response_stays_when_the_item_has_changed_and_gone(
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


async def test_a_response_lost_after_the_commit_is_replayed_by_another_worker(
    app: FastAPI, client: httpx.AsyncClient, settings: Settings
) -> None:
    async def app_that_dies(scope: Any, receive: Any, send: Any) -> None:
        async def die(message: Any) -> None:
            raise RuntimeError("the worker dies")

        await app(scope, receive, die)

    transport = httpx.ASGITransport(app_that_dies)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as dying:
        with pytest.raises(RuntimeError, match="the worker dies"):
            await post(dying, "/items", "k")
    assert await stored(app) == (1, 1)

    async with serving(create_app(settings)) as other_worker:
        assert is_replay(await post(other_worker, "/items", "k"))
        assert not is_replay(await post(other_worker, "/items", "another"))


async def test_whitespace_order_and_ignored_members_do_not_change_the_request(
    app: FastAPI, client: httpx.AsyncClient
) -> None:
    first = {path: await post(client, path, path) for path in PATHS}
    for path, content in (
        ("/items", '\r\n\t{ "price" : 29.99 ,\n "name" : "L\\u0061mp" }  '),
        ("/items", '{"id": 7, "colour": {"of": ["red"]}, "name": "Lamp", "price": 29.99}'),
        (
            "/items/bulk",
            '{"z": 0, "items": [{"id": 1, "price": 29.99, "name": "Lamp"}, {"name":"Torch"}]}',
        ),
    ):
        again = await post_raw(client, path, content, path.encode())

        assert is_replay(again)
        assert again.content == first[path].content
    assert await stored(app) == (3, 2)


async def test_another_request_with_the_same_key_is_a_422(
    app: FastAPI, client: httpx.AsyncClient
) -> None:
    first = {path: await post(client, path, path) for path in PATHS}
    for key, path, body in (
        ("/items", "/items", {"name": "Lamp"}),
        ("/items", "/items", {**LAMP, "price": 29.98}),
        ("/items", "/items", {**LAMP, "description": ""}),
        ("/items", "/items", {**LAMP, "is_active": False}),
        ("/items", "/items/bulk", {"items": [LAMP], **LAMP}),
        ("/items/bulk", "/items/bulk", {"items": [TORCH, LAMP]}),
        ("/items/bulk", "/items/bulk", {"items": [LAMP, {**TORCH, "price": 0}]}),
        ("/items/bulk", "/items", {"items": [LAMP, TORCH], **LAMP}),
    ):
        check_problem(await post(client, path, key, body), 422, "idempotency-key-reused")
    again = {path: await post(client, path, path) for path in PATHS}

    assert all(is_replay(again[path]) for path in PATHS)
    assert [again[path].content for path in PATHS] == [first[path].content for path in PATHS]
    assert await stored(app) == (3, 2)


async def test_requests_without_a_key_are_never_replayed(
    app: FastAPI, client: httpx.AsyncClient
) -> None:
    for path in PATHS:
        for _ in range(2):
            assert not is_replay(await client.post(path, json=BODIES[path]))

    assert await stored(app) == (6, 0)


@pytest.mark.parametrize("path", PATHS)
async def test_a_refused_request_does_not_use_up_its_key(
    app: FastAPI, client: httpx.AsyncClient, settings: Settings, path: str
) -> None:
    settings.max_body_bytes = settings.max_bulk_bytes = 1000
    for content, status, kind in (
        ('{"name": "", "items": []}', 422, "invalid-input"),
        ('{"name": "Lamp"', 422, "invalid-input"),
        ('{"name": "Lamp"}'.ljust(2000), 413, "body-too-large"),
    ):
        check_problem(await post_raw(client, path, content, b"k"), status, kind)
    assert await stored(app) == (0, 0)

    assert not is_replay(await post(client, path, "k"))


@pytest.mark.parametrize(
    ("table", "sqlstate", "status", "kind"),
    [
        ("items", "23514", 422, "invalid-input"),
        ("idempotency_keys", "40001", 503, "unavailable"),
    ],
)
async def test_a_failed_commit_stores_neither_the_items_nor_the_key(
    app: FastAPI, client: httpx.AsyncClient, table: str, sqlstate: str, status: int, kind: str
) -> None:
    async with refused_commits(app, table, sqlstate):
        for path in PATHS:
            check_problem(await post(client, path, "k"), status, kind)
        assert await stored(app) == (0, 0)

    assert not is_replay(await post(client, "/items", "k", TORCH))


async def test_a_key_is_kept_for_idempotency_ttl(
    app: FastAPI, client: httpx.AsyncClient, settings: Settings
) -> None:
    settings.idempotency_ttl = 1000
    await post(client, "/items", "k")
    left = "SELECT extract(epoch FROM expires_at - now())::float8 FROM idempotency_keys"
    async with state_of(app).engine.connect() as conn:
        seconds = await conn.scalar(text(left))

    assert 1000 - TIMEOUT < seconds <= 1000


@pytest.mark.parametrize("bodies", [BODIES, OTHER_BODIES], ids=["same body", "other body"])
async def test_an_expired_key_may_be_used_for_a_new_request(
    app: FastAPI, client: httpx.AsyncClient, bodies: dict[str, Any]
) -> None:
    old = await post(client, "/items", "k")
    await execute(app, "UPDATE idempotency_keys SET expires_at = now()")
    new = await post(client, "/items", "k", bodies["/items"])
    again = await post(client, "/items", "k", bodies["/items"])

    assert not is_replay(new)
    assert new.content != old.content
    assert is_replay(again)
    assert again.content == new.content
    check_problem(await post(client, "/items", "k", {"name": "3"}), 422, "idempotency-key-reused")
    assert await stored(app) == (2, 1)


async def test_each_client_has_its_own_keys(app: FastAPI, settings: Settings) -> None:
    made = [create_key(name, ["items:write"]) for name in ("shop", "till", "shop")]
    shop, till, rotated_shop = ({"authorization": f"Bearer {secret}"} for secret, _ in made)
    settings.api_keys = parse_keys(" ".join(entry for _, entry in made))
    async with serving(create_app(settings)) as client:
        first = await post(client, "/items", "k", **shop)
        other = await post(client, "/items", "k", TORCH, **till)
        # A client with a new secret is still the same client.
        again = [await post(client, "/items", "k", **headers) for headers in (shop, rotated_shop)]

        assert not is_replay(first)
        assert not is_replay(other)
        assert all(is_replay(answer) and answer.content == first.content for answer in again)
        check_problem(await post(client, "/items", "k", **till), 422, "idempotency-key-reused")
        check_problem(await post(client, "/items", "k"), 401, "unauthorized")
    assert await stored(app) == (2, 2)
