"""Health over HTTP: the overview, liveness and readiness."""

from contextlib import nullcontext
from dataclasses import replace
from importlib.metadata import version

import httpx2 as httpx
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from pydantic import SecretStr

from service.database.revision import Found, check_ready, is_behind, load_revisions
from service.errors import Unavailable
from service.main import create_app
from service.settings import Settings
from service.state import state_of
from tests.support.apps import execute, serving
from tests.support.problems import check_problem
from tests.support.processes import connection

HEAD = load_revisions().head


async def test_health_shows_the_database_and_the_version(client: httpx.AsyncClient) -> None:
    answer = await client.get("/health")

    assert answer.status_code == 200
    assert answer.json() == {
        "status": "ok",
        "database": "ok",
        "version": version("items-service"),
    }


@pytest.mark.parametrize("path", ["/health/live", "/health/ready"])
async def test_a_service_with_the_schema_is_live_and_ready(
    client: httpx.AsyncClient, path: str
) -> None:
    answer = await client.get(path)

    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


def test_without_a_database_the_service_is_live_but_not_ready(settings: Settings) -> None:
    settings.database_url = SecretStr("postgresql://nobody:secret@127.0.0.1:1/nothing")
    with TestClient(create_app(settings)) as client:
        assert client.get("/health/live").status_code == 200
        for path in ("/health", "/health/ready"):
            answer = client.get(path)

            check_problem(answer, 503, "unavailable")
            assert "secret" not in answer.text
            assert int(answer.headers["retry-after"]) > 0


async def test_a_service_is_ready_once_the_schema_is_not_older_than_the_code(
    settings: Settings, empty_database_url: str
) -> None:
    settings.database_url = SecretStr(empty_database_url)
    app = create_app(settings)
    async with serving(app) as client:
        for state, statement, status in [
            ("never migrated", "SELECT 1", 503),
            ("at base", "CREATE TABLE alembic_version (version_num varchar(32))", 503),
            ("at head", f"INSERT INTO alembic_version VALUES ('{HEAD}')", 200),
            ("another application's", "UPDATE alembic_version SET version_num = 'f00d'", 503),
        ]:
            await execute(app, statement)

            assert (await client.get("/health/ready")).status_code == status, state
            assert (await client.get("/health/live")).status_code == 200, state
            assert (await client.get("/health")).status_code == 200, state


async def test_a_newer_schema_is_ready(settings: Settings, own_database_url: str) -> None:
    settings.database_url = SecretStr(own_database_url)
    app = create_app(settings)
    async with serving(app) as client:
        await execute(app, "UPDATE alembic_version SET version_num = 'f00d'")
        assert (await client.get("/health/ready")).status_code == 200

        await execute(app, "ALTER TABLE items DROP description")
        check_problem(await client.get("/health/ready"), 503, "unavailable")
        assert (await client.get("/items/1")).status_code == 503


async def test_a_search_before_the_migration_of_its_collation_returns_503(
    settings: Settings, own_database_url: str
) -> None:
    settings.database_url = SecretStr(own_database_url)
    app = create_app(settings)
    async with serving(app) as client:
        await execute(app, "ALTER COLLATION folding RENAME TO other")
        await execute(app, "UPDATE alembic_version SET version_num = 'c3a7f1d2e684'")
        check_problem(await client.get("/items", params={"q": "lamp"}), 503, "unavailable")
        assert (await client.get("/items")).status_code == 200


async def test_a_database_that_refuses_writes_is_not_ready(
    settings: Settings, own_database_url: str
) -> None:
    settings.database_url = SecretStr(own_database_url)
    name = settings.engine_url.database
    async with connection(own_database_url) as admin:
        await admin.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    async with serving(create_app(settings)) as client:
        check_problem(await client.get("/health/ready"), 503, "unavailable")
        assert (await client.get("/health")).status_code == 200


@pytest.mark.parametrize(
    ("found", "detail"),
    [
        (Found(HEAD), ""),
        (Found("f00d"), ""),
        (Found(None), "schema is older"),
        (Found("4d1f0c6a9b27"), "schema is older"),
        (Found("f00d", is_ours=False), "unknown revision f00d"),
        (Found(HEAD, is_read_only=True), "read-only"),
    ],
    ids=str,
)
def test_readiness_has_a_reason(found: Found, detail: str) -> None:
    revisions = load_revisions()
    assert is_behind(found, revisions) == bool(detail)
    with pytest.raises(Unavailable, match=detail) if detail else nullcontext():
        check_ready(found, revisions)


async def test_a_schema_older_than_the_code_is_not_ready(
    client: httpx.AsyncClient, app: FastAPI
) -> None:
    revisions = state_of(app).revisions  # as if the code had one more
    state_of(app).revisions = replace(revisions, head="new", known=revisions.known | {"new"})
    answer = await client.get("/health/ready")

    assert "migrate" in check_problem(answer, 503, "unavailable")["detail"]
    assert int(answer.headers["retry-after"]) > 0
