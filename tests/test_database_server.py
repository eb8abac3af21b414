"""Which PostgreSQL the tests run on."""

import pytest
from testcontainers.community.postgres import PostgresContainer

from tests.support import database
from tests.support.processes import query


def test_without_the_image_the_tests_run_on_the_embedded_server(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(self: object) -> None:
        raise RuntimeError("no such host\nand more")

    monkeypatch.delenv("TEST_DATABASE_URL", raising=False)
    monkeypatch.setattr(database, "docker_answers", lambda: True)
    monkeypatch.setattr(PostgresContainer, "start", fail)
    with database.server() as (description, url):
        assert query(url, "SELECT 1") == [(1,)]

    why = f"Docker cannot run {database.IMAGE}: no such host"
    assert description == f"the embedded PostgreSQL, as {why}"
