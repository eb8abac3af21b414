"""Idempotency-Key when requests overlap, clients disconnect and connections break."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx2 as httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from service.crud import idempotency as crud
from service.database.engine import transactional
from service.main import create_app
from service.settings import Settings
from service.state import state_of
from tests.support.apps import execute, serving, tolerate_locks
from tests.support.idempotency import (
    BODIES,
    OTHER_BODIES,
    PATHS,
    ROWS,
    TORCH,
    is_replay,
    post,
    stored,
)
from tests.support.locks import ADVISORY_LOCKS, BLOCKED, until_true
from tests.support.problems import check_problem
from tests.support.samples import LAMP
from tests.support.waiting import TIMEOUT

KILL_BLOCKED = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE datname = current_database() AND wait_event_type = 'Lock'
"""


@pytest.fixture
def settings(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Timeouts long enough for requests that wait for a lock."""
    settings.request_timeout = TIMEOUT
    return tolerate_locks(settings, monkeypatch)


@asynccontextmanager
async def in_flight(
    app: FastAPI, client: httpx.AsyncClient, path: str
) -> AsyncIterator[asyncio.Task[httpx.Response]]:
    """Yield a request whose transaction has stored its items and waits to store its key `k`."""
    blocker = (
        "INSERT INTO idempotency_keys (owner, key, fingerprint, status, headers, body, expires_at)"
        " VALUES ('', 'k', '', 0, '[]', '', now())"
    )
    async with transactional(state_of(app).engine).connect() as conn:
        await conn.execute(text(blocker))
        request = asyncio.create_task(post(client, path, "k"))
        await until_true(app, f"{BLOCKED} >= 1")
        yield request
        await conn.rollback()


async def check_key_is_free(app: FastAPI, client: httpx.AsyncClient, path: str) -> None:
    """Assert that the request with the key `k` has left nothing and can be sent again."""
    await until_true(app, f"{ADVISORY_LOCKS} = 0")
    assert await stored(app) == (0, 0)
    assert not is_replay(await post(client, path, "k"))
    assert await stored(app) == (ROWS[path], 1)


@pytest.mark.parametrize("before", ["no key", "an expired key"])
async def test_one_of_many_concurrent_requests_with_one_key_is_done(
    app: FastAPI, client: httpx.AsyncClient, settings: Settings, before: str
) -> None:
    if before == "an expired key":
        await post(client, "/items", "k", {"name": "Old"})
        await execute(app, "UPDATE idempotency_keys SET expires_at = now()", "TRUNCATE items")
    async with serving(create_app(settings)) as other_worker:
        answers = await asyncio.gather(
            *(
                post(worker, "/items", "k", body)
                for _ in range(5)
                for body in (LAMP, TORCH)
                for worker in (client, other_worker)
            )
        )

    created = [answer for answer in answers if answer.status_code == 201]
    assert len({answer.content for answer in created}) == 1
    assert [is_replay(answer) for answer in created].count(False) == 1
    kinds = {409: "in-progress", 422: "idempotency-key-reused"}
    for answer in answers:
        if answer not in created:
            check_problem(answer, answer.status_code, kinds[answer.status_code])
    assert await stored(app) == (1, 1)


async def test_a_key_in_use_is_a_409_that_says_when_to_retry(
    app: FastAPI, client: httpx.AsyncClient
) -> None:
    async with in_flight(app, client, "/items") as request:
        for path in PATHS:
            for bodies in (BODIES, OTHER_BODIES):
                answer = await post(client, path, "k", bodies[path])
                check_problem(answer, 409, "in-progress")
                assert int(answer.headers["retry-after"]) > 0
        # Requests with another key, or without one, do not wait.
        assert not is_replay(await post(client, "/items", "another"))
        assert (await client.post("/items", json=LAMP)).status_code == 201
        assert not request.done()
    first = await request
    again = await post(client, "/items", "k")

    assert not is_replay(first)
    assert is_replay(again)
    assert again.content == first.content
    assert await stored(app) == (3, 2)


async def test_a_request_tries_again_to_lock_its_key(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = iter([False])  # of the first try

    async def try_lock(session: AsyncSession, owner: str, key: str) -> bool:
        return next(results, True)

    monkeypatch.setattr(crud, "try_lock", try_lock)

    assert not is_replay(await post(client, "/items", "k"))


@pytest.mark.parametrize("path", PATHS)
async def test_a_request_of_a_disconnected_client_leaves_nothing(
    app: FastAPI, client: httpx.AsyncClient, path: str
) -> None:
    async with in_flight(app, client, path) as request:
        request.cancel()
        await asyncio.wait([request])

    await check_key_is_free(app, client, path)


async def test_a_request_whose_connection_is_lost_is_a_503_and_leaves_nothing(
    app: FastAPI, client: httpx.AsyncClient
) -> None:
    async with asyncio.timeout(TIMEOUT), in_flight(app, client, "/items/bulk") as request:
        while not request.done():  # the service tries twice
            await execute(app, KILL_BLOCKED)
            await asyncio.sleep(0.01)
        check_problem(await request, 503, "unavailable")

    await check_key_is_free(app, client, "/items/bulk")
