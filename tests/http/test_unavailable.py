"""While the database cannot serve a request, the response is a 503 that says when to retry."""

import asyncio
from typing import Any

import httpx2 as httpx
import pytest
from asyncpg import exceptions as errors
from fastapi.testclient import TestClient
from pydantic import SecretStr
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from service.database.engine import transactional
from service.http.problem import database_error
from service.main import create_app
from service.settings import Settings
from service.state import state_of
from tests.support.apps import serving, tolerate_locks
from tests.support.problems import MARK, check_problem
from tests.support.waiting import TIMEOUT

# Nothing listens on this port.
NO_DATABASE = f"postgresql://{MARK}:{MARK}@127.0.0.1:1/{MARK}"
REQUESTS: list[tuple[str, str, Any]] = [
    ("POST", "/items", {"name": MARK}),
    ("GET", "/items", None),
    ("GET", f"/items?q={MARK}", None),
    ("GET", "/items/1", None),
    ("PUT", "/items/1", {"name": MARK}),
    ("PATCH", "/items/1", {"name": MARK}),
    ("PATCH", "/items/1", {}),
    ("DELETE", "/items/1", None),
    ("DELETE", "/items/1?permanent=true", None),
]


def check_unavailable(answer: httpx.Response) -> None:
    check_problem(answer, 503, "unavailable")
    assert int(answer.headers["retry-after"]) > 0


def test_without_a_database_every_valid_request_returns_503(settings: Settings) -> None:
    settings.database_url = SecretStr(NO_DATABASE)
    with TestClient(create_app(settings)) as client:
        for method, path, body in REQUESTS:
            check_unavailable(client.request(method, path, json=body))

        head = client.head("/items/1")
        assert (head.status_code, head.content) == (503, b"")
        check_problem(client.post("/items", json={}), 422, "invalid-input")
        check_problem(client.get("/items?per_page=0"), 422, "invalid-input")


def test_without_the_schema_every_request_returns_503(
    settings: Settings, empty_database_url: str
) -> None:
    settings.database_url = SecretStr(empty_database_url)
    with TestClient(create_app(settings)) as client:
        for method, path, body in REQUESTS:
            check_unavailable(client.request(method, path, json=body))


async def test_without_a_free_connection_a_request_returns_503(settings: Settings) -> None:
    settings.pool_size, settings.max_overflow, settings.pool_timeout = 1, 0, 0.05
    app = create_app(settings)
    async with serving(app) as client:
        async with state_of(app).engine.connect():
            for path in ("/health", "/items", "/items/1"):
                check_unavailable(await client.get(path))
        assert (await client.get("/items")).status_code == 200


async def test_past_the_queue_limit_a_request_returns_503_and_the_others_are_served(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    tolerate_locks(settings, monkeypatch)
    settings.queue_limit = 1
    app = create_app(settings)
    async with serving(app) as client:
        async with transactional(state_of(app).engine).begin() as conn:
            await conn.execute(text("LOCK TABLE items"))  # so that each read waits
            requests = [asyncio.create_task(client.get("/items/0")) for _ in range(10)]
            (first, *_), _ = await asyncio.wait(
                requests, return_when=asyncio.FIRST_COMPLETED, timeout=TIMEOUT
            )
        answers = await asyncio.gather(*requests)

    check_unavailable(first.result())
    assert {answer.status_code for answer in answers} == {404, 503}


@pytest.mark.parametrize(
    ("fault", "status"),
    [
        (errors.TooManyConnectionsError, 503),  # 53300
        (errors.DiskFullError, 503),  # 53100
        (errors.CannotConnectNowError, 503),  # 57P03
        (errors.ConnectionDoesNotExistError, 503),  # 08003
        (errors.ReadOnlySQLTransactionError, 503),  # 25006
        (errors.InvalidPasswordError, 503),  # 28P01
        (errors.InvalidCatalogNameError, 503),  # 3D000
        (errors.SerializationError, 503),  # 40001
        (errors.LockNotAvailableError, 503),  # 55P03
        (errors.QueryCanceledError, 503),  # 57014
        (errors.InsufficientPrivilegeError, 503),  # 42501
        (errors.StringDataRightTruncationError, 422),  # 22001
        (errors.UniqueViolationError, 409),  # 23505
        (errors.CheckViolationError, 422),  # 23514
        (errors.PostgresSyntaxError, 500),  # 42601
        (errors.InternalServerError, 500),  # XX000
    ],
)
def test_each_kind_of_database_fault_has_its_status(
    fault: type[errors.PostgresError], status: int
) -> None:
    assert database_error(DBAPIError("SELECT 1", None, fault("secret"))).status_code == status
