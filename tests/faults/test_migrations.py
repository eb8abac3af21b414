"""Migrations in production: many migrators at once, one that dies, and a type that changes under
load.
"""

import asyncio
import json
import shutil
import subprocess
import sys
import time
from collections import Counter
from contextlib import ExitStack
from itertools import cycle
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest

from service.revision import load_revisions
from tests.support.commands import ROOT, clean_environment, run
from tests.support.processes import connection, holding, query, running
from tests.support.waiting import TIMEOUT, wait_until

pytestmark = pytest.mark.faults

HEAD = load_revisions().head
REVISION = "SELECT version_num FROM alembic_version"
INVALID = "SELECT indexrelid::regclass::text FROM pg_index WHERE NOT indisvalid"
# The revision after this one has CREATE INDEX CONCURRENTLY.
FIRST = "4d1f0c6a9b27"
BUILDING = """
    SELECT pid FROM pg_stat_activity
    WHERE datname = current_database() AND query LIKE 'CREATE INDEX CONCURRENTLY%'
"""

MIGRATE = (("items", "migrate"), ("alembic", "upgrade", "head"))
# Back and forth; each makes every plan that selects the column stale.
CHANGES = (
    "ALTER TABLE items ALTER description TYPE varchar(4000)",
    "ALTER TABLE items ALTER price TYPE numeric(14, 2)",
    "ALTER TABLE items ALTER description TYPE text",
    "ALTER TABLE items ALTER price TYPE numeric(12, 2)",
)
CHANGE_INTERVAL = 0.5  # seconds
CLIENTS = 16


class Migrator:
    """A process that migrates."""

    def __init__(self, command: tuple[str, ...], url: str, folder: Path, name: str) -> None:
        self._log = folder / f"migrator-{name}"
        with self._log.open("wb") as file:
            self.process = subprocess.Popen(
                [str(Path(sys.executable).parent / command[0]), *command[1:]],
                cwd=ROOT,
                env=clean_environment() | {"DATABASE_URL": url},
                stderr=file,
            )

    def applied(self) -> list[str]:
        """What it has run, as it says itself."""
        events = [json.loads(line)["event"] for line in self._log.read_text().splitlines()]
        return [event for event in events if event.startswith("Running upgrade")]


def start_migrators(url: str, folder: Path, count: int = 5) -> list[Migrator]:
    """Start migrators at once, by either command."""
    commands = zip(range(count), cycle(MIGRATE), strict=False)
    return [Migrator(command, url, folder, str(number)) for number, command in commands]


def test_of_five_migrators_one_applies(empty_database_url: str, tmp_path: Path) -> None:
    url = empty_database_url
    with ExitStack() as stack:
        migrators = start_migrators(url, tmp_path)
        for migrator in migrators:
            stack.callback(migrator.process.kill)
        codes = [migrator.process.wait(2 * TIMEOUT) for migrator in migrators]

    assert codes == [0] * 5
    applied = sorted(len(migrator.applied()) for migrator in migrators)
    assert applied == [0, 0, 0, 0, len(load_revisions().known)]
    assert query(url, REVISION) == [(HEAD,)]
    assert query(url, INVALID) == []


def test_when_the_migrator_that_applies_dies_another_takes_over(
    empty_database_url: str, tmp_path: Path
) -> None:
    url = empty_database_url
    run("alembic", "upgrade", FIRST, env={"DATABASE_URL": url})
    with ExitStack() as stack:
        # It builds an index for as long as somebody writes.
        writer = stack.enter_context(ExitStack())
        writer.enter_context(holding(url, "BEGIN; INSERT INTO items (name) VALUES ('Lamp')"))
        first = Migrator(MIGRATE[0], url, tmp_path, "first")
        stack.callback(first.process.kill)
        wait_until(lambda: len(query(url, BUILDING)) == 1)
        others = start_migrators(url, tmp_path, 4)
        for migrator in others:
            stack.callback(migrator.process.kill)
        first.process.kill()
        first.process.wait(TIMEOUT)
        time.sleep(2)  # for another to meet what the first has left
        writer.close()
        codes = [migrator.process.wait(2 * TIMEOUT) for migrator in others]

    assert codes == [0] * 4
    assert query(url, REVISION) == [(HEAD,)]
    assert query(url, INVALID) == []


def test_a_migration_that_is_rolled_back_silently_fails(
    empty_database_url: str, tmp_path: Path
) -> None:
    # As when the connection is in a transaction already: Alembic leaves it to whoever began it.
    shutil.copytree(ROOT / "migrations", tmp_path / "migrations")
    shutil.copy(ROOT / "alembic.ini", tmp_path)
    env = tmp_path / "migrations" / "env.py"
    start = "    context.configure(\n        connection=conn,"
    assert start in env.read_text()
    env.write_text(env.read_text().replace(start, f"    conn.execute(text('SELECT 1'))\n{start}"))

    command = ("alembic", "-c", str(tmp_path / "alembic.ini"), "upgrade", FIRST)
    ran = run(*command, env={"DATABASE_URL": empty_database_url}, check=False)

    assert query(empty_database_url, "SELECT to_regclass('items')") == [(None,)]
    assert ran.returncode != 0


@pytest.mark.parametrize("seconds", [6, pytest.param(60, marks=pytest.mark.soak)])
async def test_no_client_notices_that_a_type_changes(empty_database_url: str, seconds: int) -> None:
    url = empty_database_url
    run("items", "migrate", env={"DATABASE_URL": url})
    answers: Counter[tuple[str, int]] = Counter()
    over = asyncio.Event()
    changes = 0

    async def use(client: httpx.AsyncClient, number: int) -> None:
        for turn in range(number, 1_000_000, CLIENTS):
            if over.is_set():
                return
            for name, request in requests(turn):
                answer = await client.request(**request)
                answers[name, answer.status_code] += 1
                if not answer.is_success:
                    print(name, answer.status_code, answer.text)

    environment = {"DATABASE_URL": url, "WEB_CONCURRENCY": "2", "MAX_EXPORTS": "50"}
    with running("serve", env=environment) as server:
        async with (
            httpx.AsyncClient(base_url=server.url, timeout=TIMEOUT) as client,
            connection(url) as conn,
            asyncio.TaskGroup() as group,
        ):
            await conn.execute("INSERT INTO items (name) SELECT 'Old' FROM generate_series(1, 100)")
            for number in range(CLIENTS):
                group.create_task(use(client, number))
            end = time.monotonic() + seconds
            for change in cycle(CHANGES):
                await asyncio.sleep(CHANGE_INTERVAL)
                await conn.execute(change)
                changes += 1
                if time.monotonic() > end:
                    break
            await asyncio.sleep(CHANGE_INTERVAL)
            over.set()

    print(f"{changes} changes of a type under {answers.total()} requests: {dict(answers)}")
    assert {name for name, _ in answers} == {name for name, _ in requests(0)}
    assert {status for _, status in answers} == {200, 201, 204}
    assert [line for line in server.lines() if line["level"] not in ("info", "warning")] == []


def requests(turn: int) -> list[tuple[str, dict[str, Any]]]:
    """A request of each kind, as arguments of httpx; each item is deleted by no other turn."""
    item = f"/items/{turn % 100 + 1}"
    lamp = {"name": f"Lamp {turn}", "description": "bright", "price": 29.99}
    key = {"Idempotency-Key": str(turn)}
    return [
        ("read", {"method": "GET", "url": item}),
        ("list", {"method": "GET", "url": "/items?sort=-id&per_page=5"}),
        ("search", {"method": "GET", "url": "/items?q=lamp&per_page=5"}),
        ("create", {"method": "POST", "url": "/items", "json": lamp}),
        ("create with a key", {"method": "POST", "url": "/items", "json": lamp, "headers": key}),
        ("create again", {"method": "POST", "url": "/items", "json": lamp, "headers": key}),
        ("create many", {"method": "POST", "url": "/items/bulk", "json": {"items": [lamp] * 3}}),
        ("replace", {"method": "PUT", "url": item, "json": lamp}),
        ("change", {"method": "PATCH", "url": item, "json": {"price": 1.5}}),
        ("delete", {"method": "DELETE", "url": item}),
        ("export", {"method": "GET", "url": "/items/export?price_min=29.99&price_max=29.98"}),
        ("export all", {"method": "GET", "url": "/items/export"}),
        ("health", {"method": "GET", "url": "/health/ready"}),
    ]
