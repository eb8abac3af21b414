"""Health over HTTP: the state at a glance, whether the process is up, whether it takes traffic."""

from dataclasses import replace
from importlib.metadata import version

import httpx2 as httpx
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from pydantic import SecretStr
from sqlalchemy import text

from service.database import transactional
from service.main import create_app
from service.revision import load_revisions
from service.settings import Settings
from tests.support.apps import serving

HEAD = load_revisions().head
VERSIONS = "CREATE TABLE alembic_version (version_num varchar(32) NOT NULL)"


async def test_health_tells_the_state_at_a_glance(client: httpx.AsyncClient) -> None:
    answer = await client.get("/health")

    assert answer.status_code == 200
    assert answer.json() == {
        "status": "ok",
        "database": "ok",
        "version": version("items-service"),
    }


@pytest.mark.parametrize("path", ["/health/live", "/health/ready"])
async def test_a_migrated_service_is_live_and_ready(client: httpx.AsyncClient, path: str) -> None:
    answer = await client.get(path)

    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


@pytest.mark.parametrize(("path", "status"), [("", 503), ("/live", 200), ("/ready", 503)])
def test_without_a_database_the_service_is_live_and_no_more(
    settings: Settings, path: str, status: int
) -> None:
    settings.database_url = SecretStr("postgresql://nobody:secret@127.0.0.1:1/nothing")
    with TestClient(create_app(settings)) as client:
        answer = client.get(f"/health{path}")

    assert answer.status_code == status
    assert "secret" not in answer.text
    if status == 503:
        assert answer.headers["content-type"] == "application/problem+json"
        assert int(answer.headers["retry-after"]) > 0


@pytest.mark.parametrize(
    ("statements", "status"),
    [
        pytest.param([], 503, id="never migrated"),
        pytest.param([VERSIONS], 503, id="downgraded to base"),
        pytest.param([VERSIONS, f"INSERT INTO alembic_version VALUES ('{HEAD}')"], 200, id="head"),
        pytest.param(
            [VERSIONS, "INSERT INTO alembic_version VALUES ('f00d00000000')"],
            200,
            id="a newer one that the code does not know",
        ),
    ],
)
async def test_ready_means_a_schema_not_behind_the_code(
    settings: Settings, empty_database_url: str, statements: list[str], status: int
) -> None:
    settings.database_url = SecretStr(empty_database_url)
    app = create_app(settings)
    async with serving(app) as client:
        async with transactional(app.state.engine).begin() as conn:
            for statement in statements:
                await conn.execute(text(statement))

        assert (await client.get("/health/ready")).status_code == status
        assert (await client.get("/health/live")).status_code == 200
        assert (await client.get("/health")).status_code == 200


async def test_a_schema_of_yesterday_is_not_ready(client: httpx.AsyncClient, app: FastAPI) -> None:
    revisions = app.state.revisions  # as if the code had one more
    app.state.revisions = replace(revisions, head="new", known=revisions.known | {"new"})
    answer = await client.get("/health/ready")

    assert answer.status_code == 503
    assert "migrate" in answer.json()["detail"]
    assert int(answer.headers["retry-after"]) > 0
