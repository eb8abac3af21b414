"""Migrations in production: a migrator that dies, and a column's type that changes under load."""

import asyncio
import json
import shutil
import subprocess
import sys
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from alembic import command
from alembic.config import Config
from alembic.util.exc import CommandError

from service.database.revision import load_revisions
from service.settings import get_settings
from tests.support.commands import ROOT, clean_environment
from tests.support.database import migrate
from tests.support.probes import serving
from tests.support.processes import connection, holding, query
from tests.support.samples import LAMP
from tests.support.waiting import TIMEOUT, until, wait_until

pytestmark = pytest.mark.faults

REVISIONS = load_revisions()
FIRST = "4d1f0c6a9b27"  # the next one has CREATE INDEX CONCURRENTLY
# Back and forth; each makes every plan that selects the column stale.
CHANGES = (
    "ALTER TABLE items ALTER description TYPE varchar(4000)",
    "ALTER TABLE items ALTER price TYPE numeric(14, 2)",
    "ALTER TABLE items ALTER description TYPE text",
    "ALTER TABLE items ALTER price TYPE numeric(12, 2)",
)
CLIENTS = 8


class Migrator:
    """A process that runs `items migrate`, killed at the end of `stack` if it still runs."""

    def __init__(self, url: str, log: Path, stack: ExitStack) -> None:
        self._log = log
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                [str(Path(sys.executable).parent / "items"), "migrate"],
                cwd=ROOT,
                env=clean_environment() | {"DATABASE_URL": url},
                stderr=file,
            )
        stack.callback(self.process.wait)
        stack.callback(self.process.kill)

    def applied(self) -> list[str]:
        """Return the log events of the revisions that it has applied."""
        events = [json.loads(line)["event"] for line in self._log.read_text().splitlines()]
        return [event for event in events if event.startswith("Running upgrade")]


def test_when_a_migrator_is_killed_one_of_those_that_wait_takes_over(
    empty_database_url: str, tmp_path: Path
) -> None:
    url = empty_database_url
    migrate(url, FIRST)
    with ExitStack() as stack:
        # An open transaction keeps the migrator from finishing its index.
        writer = stack.enter_context(ExitStack())
        writer.enter_context(holding(url, "BEGIN; INSERT INTO items (name) VALUES ('Lamp')"))
        first = Migrator(url, tmp_path / "first", stack)
        wait_until(lambda: blocked(url, "CREATE INDEX CONCURRENTLY"))
        others = [Migrator(url, tmp_path / f"other-{number}", stack) for number in range(2)]
        first.process.kill()
        wait_until(lambda: blocked(url, "DROP INDEX CONCURRENTLY"))
        # Ended in the midst of the build, its backend leaves an invalid index behind.
        for pid in blocked(url, "CREATE INDEX CONCURRENTLY"):
            query(url, f"SELECT pg_terminate_backend({pid})")
        writer.close()
        codes = [migrator.process.wait(TIMEOUT) for migrator in others]

    assert codes == [0, 0]
    applied = sorted(len(migrator.applied()) for migrator in others)
    assert applied == [0, len(REVISIONS.known) - 1]
    assert query(url, "SELECT version_num FROM alembic_version") == [(REVISIONS.head,)]
    assert query(url, "SELECT FROM pg_index WHERE NOT indisvalid") == []


def blocked(url: str, statement: str) -> list[int]:
    """Return the backends that wait for a lock in `statement`, by their process ids."""
    backends = f"""
        SELECT pid FROM pg_stat_activity WHERE datname = current_database()
        AND wait_event_type = 'Lock' AND query LIKE '%{statement}%'
    """
    return [pid for (pid,) in query(url, backends)]


def test_a_migration_that_is_silently_rolled_back_fails(
    empty_database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Alembic leaves the commit to the caller if the connection is in a transaction already."""
    shutil.copytree(ROOT / "migrations", tmp_path / "migrations")
    ini = shutil.copy(ROOT / "alembic.ini", tmp_path)
    env = tmp_path / "migrations" / "env.py"
    start = "    context.configure(\n        connection=conn,"
    assert start in env.read_text()
    begin = "conn.exec_driver_sql('SELECT 1')"
    env.write_text(env.read_text().replace(start, f"    {begin}\n{start}"))
    monkeypatch.setenv("DATABASE_URL", empty_database_url)
    get_settings.cache_clear()

    with pytest.raises(CommandError, match="not committed"):
        command.upgrade(Config(ini), FIRST)

    get_settings.cache_clear()
    assert query(empty_database_url, "SELECT to_regclass('items')") == [(None,)]


@pytest.mark.parametrize("rounds", [1, pytest.param(10, marks=pytest.mark.soak)])
async def test_no_request_fails_while_the_type_of_a_column_changes(
    own_database_url: str, rounds: int
) -> None:
    answers: Counter[tuple[str, int]] = Counter()
    turns = [0] * CLIENTS
    is_over = False

    async def send_on(client: httpx.AsyncClient, number: int) -> None:
        while not is_over:
            for name, request in requests(turns[number] * CLIENTS + number):
                answer = await client.request(**request)
                answers[name, answer.status_code] += 1
                if not answer.is_success:
                    print(name, answer.text)
            turns[number] += 1

    async def wait_for_two_turns() -> None:
        # The first may have begun before the change.
        enough = [turn + 2 for turn in turns]
        await until(lambda: all(map(int.__ge__, turns, enough)))

    with serving(own_database_url, MAX_EXPORTS="50") as server:
        async with (
            httpx.AsyncClient(base_url=server.url, timeout=TIMEOUT) as client,
            connection(own_database_url) as conn,
            asyncio.TaskGroup() as group,
        ):
            await conn.execute("INSERT INTO items (name) SELECT 'Old' FROM generate_series(1, 100)")
            for number in range(CLIENTS):
                group.create_task(send_on(client, number))
            for change in CHANGES * rounds:
                await wait_for_two_turns()
                await conn.execute(change)
            await wait_for_two_turns()
            is_over = True
        assert {line["level"] for line in server.lines()} <= {"info", "warning"}

    print(f"{answers.total()} requests: {dict(answers)}")
    assert {name for name, _ in answers} == {name for name, _ in requests(0)}
    assert {status for _, status in answers} <= {200, 201, 204}


def requests(turn: int) -> list[tuple[str, dict[str, Any]]]:
    """Return a request of each kind, as arguments of httpx; clients at once use other items."""
    item = f"/items/{turn % 100 + 1}"
    key = {"Idempotency-Key": str(turn)}
    return [
        ("read", {"method": "GET", "url": item}),
        ("list", {"method": "GET", "url": "/items?sort=-id&per_page=5"}),
        ("search", {"method": "GET", "url": "/items?q=lamp&per_page=5"}),
        ("create", {"method": "POST", "url": "/items", "json": LAMP}),
        ("create with a key", {"method": "POST", "url": "/items", "json": LAMP, "headers": key}),
        ("create again", {"method": "POST", "url": "/items", "json": LAMP, "headers": key}),
        ("create many", {"method": "POST", "url": "/items/bulk", "json": {"items": [LAMP] * 3}}),
        ("replace", {"method": "PUT", "url": item, "json": LAMP}),
        ("change", {"method": "PATCH", "url": item, "json": {"price": 1.5}}),
        ("delete", {"method": "DELETE", "url": item}),
        ("export", {"method": "GET", "url": "/items/export?price_min=29.99&price_max=29.98"}),
        ("export inactive", {"method": "GET", "url": "/items/export?is_active=false"}),
        ("health", {"method": "GET", "url": "/health/ready"}),
    ]
