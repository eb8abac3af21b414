"""`items import`: all rows of a file or none, and an error for each bad line."""

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from fastapi.testclient import TestClient
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from service.cli import items as commands
from service.cli import main
from service.cli.items import MAX_FAULTS
from service.crud import item as crud
from service.main import create_app
from service.settings import Settings, get_settings
from tests.support.commands import ROOT, clean_environment, items
from tests.support.processes import ITEMS, holding, query, script
from tests.support.waiting import TIMEOUT, wait_until

GOOD = b'{"name": "Good"}'
OTHERS = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND {}"
FIELDS = ("name", "description", "price", "is_active")

# Lines that hold no item, and the fields that are wrong; none, if the line as a whole is.
BAD: list[tuple[bytes, str]] = [
    (b'{"name": "Lamp"', ""),
    (b"[" * 100_000, ""),
    (b'{"name": "tab\there"}', ""),
    (b'{"name": "\\ud800"}', ""),
    (b'{"name": "\xff"}', ""),
    (b'[{"name": "Lamp"}]', ""),
    (b"{}", "name"),
    (b'{"name": " \\t "}', "name"),
    (b'{"name": "%s"}' % (b"n" * 256), "name"),
    (b'{"name": 5, "price": -1, "is_active": "yes"}', "name price is_active"),
    (b'{"name": "Lamp", "price": 0.001}', "price"),
    (b'{"name": "Lamp", "price": 1e400}', "price"),
    (b'{"name": "Lamp", "price": NaN}', ""),
]
# Items that an export and an import keep as they are.
KEPT: list[dict[str, Any]] = [
    {"name": "Lamp", "description": None, "price": None, "is_active": False},
    {"name": 'a "b"\\', "description": "two\r\n\u2028lines", "price": 0, "is_active": True},
    {"name": "é 台灯 \U0001f4a1", "description": "", "price": 9999999999.99, "is_active": True},
    {"name": "\U0001f4a1" * 255, "description": "é" * 10_000, "price": 0.1, "is_active": True},
]


@pytest.fixture
def url(database_url: str) -> str:
    """A database without items."""
    script(database_url, "TRUNCATE items RESTART IDENTITY")
    return database_url


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "items.ndjson"


@pytest.fixture
def batch(monkeypatch: pytest.MonkeyPatch) -> int:
    """A small number of rows that are sent at a time."""
    monkeypatch.setattr(commands, "BATCH", 10)
    return 10


def import_file(url: str, file: Path) -> Result:
    return items("import", str(file), env={"DATABASE_URL": url})


def numbered_rows(number: int) -> bytes:
    return b"".join(b'{"name": "Item %d"}\n' % n for n in range(1, number + 1))


def stored(url: str) -> list[Any]:
    return [row[0] for row in query(url, "SELECT name FROM items ORDER BY id")]


def check_imported(result: Result, number: int) -> None:
    """Assert that it succeeded and reports `number` items."""
    output = f"Importing\nImported {number:,} items\n"
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", output)


def errors(result: Result) -> list[str]:
    """Return the errors about lines; assert that it failed for no other reason."""
    assert (result.exit_code, result.stdout) == (1, "")
    label, title, *lines = result.stderr.splitlines()
    assert (label, title) == ("Importing", "Error: Nothing was imported:")
    return lines


def places(lines: list[str]) -> list[str]:
    """Return where each error is; assert that each has a reason."""
    assert all(line.partition(": ")[2] for line in lines)
    return [line.partition(": ")[0] for line in lines]


def test_each_bad_line_is_reported_and_nothing_is_imported(url: str, file: Path) -> None:
    # Good lines and blank ones stand between, and count.
    file.write_bytes(GOOD + b"\n" + b"".join(b"\r\n%s\n%s\n" % (line, GOOD) for line, _ in BAD))
    lines = errors(import_file(url, file))

    assert places(lines) == [
        f"line {3 * n}{f', {field}' if field else ''}"
        for n, (_, fields) in enumerate(BAD, 1)
        for field in fields.split() or [""]
    ]
    assert stored(url) == []


@pytest.mark.parametrize("more", [0, 1])
def test_errors_past_the_maximum_are_counted(url: str, file: Path, batch: int, more: int) -> None:
    file.write_bytes((GOOD + b"\n" + b"{}\n") * (MAX_FAULTS + more))  # several batches
    lines = errors(import_file(url, file))

    assert places(lines[:MAX_FAULTS]) == [f"line {2 * n}, name" for n in range(1, MAX_FAULTS + 1)]
    assert lines[MAX_FAULTS:] == ([f"and {more} more"] if more else [])
    assert stored(url) == []


def test_each_spelling_of_a_price_is_stored_as_its_value(url: str, file: Path) -> None:
    # The driver by itself refuses some of these.
    zeros = ("0", "-0.0", "0e-20000", "0E+999999999", f"0.{'0' * 5000}")
    prices = (*zeros, "1e1", "1.0E+1", "10.00", "9999999999.99")
    file.write_text("".join(f'{{"name": "Lamp", "price": {price}}}\n' for price in prices))
    check_imported(import_file(url, file), len(prices))

    rows = query(url, "SELECT price::float8 FROM items ORDER BY id")
    assert [price for (price,) in rows] == [*(0.0 for _ in zeros), 10, 10, 10, 9999999999.99]


def test_blank_lines_line_ends_and_foreign_fields_are_ignored(url: str, file: Path) -> None:
    foreign = b'{"name": "C", "id": 77, "version": 9, "created_at": 5, "colour": "red"}'
    file.write_bytes(
        b'\n{"name": "A"}\n \t\r\n{"name": "B"}\r\n\n\r\n%s\n\x0c\n  { "name" : "D" }' % foreign
    )
    check_imported(import_file(url, file), 4)

    rows = query(url, "SELECT id, name, description, price, is_active, version FROM items")
    assert rows == [(n, name, None, None, True, 1) for n, name in enumerate("ABCD", 1)]


def test_an_empty_file_imports_nothing(url: str, file: Path) -> None:
    file.touch()

    check_imported(import_file(url, file), 0)


def test_an_export_can_be_imported_again(url: str, file: Path, settings: Settings) -> None:
    with TestClient(create_app(settings)) as client:
        assert client.post("/items/bulk", json={"items": KEPT}).status_code == 201
        file.write_bytes(client.get("/items/export").content)
        script(url, "TRUNCATE items RESTART IDENTITY")
        check_imported(import_file(url, file), len(KEPT))
        again = [json.loads(line) for line in client.get("/items/export").content.splitlines()]

    assert [{name: item[name] for name in FIELDS} for item in again] == KEPT
    assert [item["id"] for item in again] == list(range(1, len(KEPT) + 1))


@pytest.mark.parametrize("path", ["nowhere.ndjson", "."])
def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path, path: str) -> None:
    result = items("import", str(tmp_path / path))

    assert (result.exit_code, result.stdout) == (2, "")
    assert "FILE" in result.stderr


def test_an_unreachable_database_is_an_error(file: Path) -> None:
    file.write_bytes(GOOD)
    result = import_file("postgresql://127.0.0.1:1/nothing", file)

    assert (result.exit_code, result.stdout) == (1, "")
    label, error = result.stderr.splitlines()
    assert (label, error[:20]) == ("Importing", "Error: The database:")


def test_a_row_that_only_the_database_refuses_undoes_everything(
    own_database_url: str, file: Path, batch: int
) -> None:
    file.write_bytes(numbered_rows(batch + 5))
    script(own_database_url, "ALTER TABLE items ADD CONSTRAINT odd CHECK (name <> 'Item 13')")
    result = import_file(own_database_url, file)

    assert (result.exit_code, result.stdout) == (1, "")
    label, error = result.stderr.splitlines()
    assert label == "Importing"
    assert error.startswith("Error: The database: ")
    assert '"odd"' in error
    assert stored(own_database_url) == []


def test_postgresql_does_not_time_out_while_lines_come_slowly(
    url: str, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    timeouts = []
    copy_many = crud.copy_many

    async def note_and_copy(conn: AsyncConnection, rows: list[Any]) -> None:
        timeouts.append(await conn.scalar(text("SHOW idle_in_transaction_session_timeout")))
        await copy_many(conn, rows)

    monkeypatch.setattr(crud, "copy_many", note_and_copy)
    file.write_bytes(GOOD)
    check_imported(import_file(url, file), 1)

    assert timeouts == ["0"]


def test_a_terminal_shows_the_progress(
    url: str, file: Path, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.write_bytes(numbered_rows(2 * batch))
    monkeypatch.setenv("DATABASE_URL", url)
    get_settings.cache_clear()
    ours, theirs = os.openpty()
    with os.fdopen(ours, "rb", buffering=0) as screen, os.fdopen(theirs, "w") as terminal:
        with redirect_stderr(terminal):
            main(["import", str(file)], standalone_mode=False)
        terminal.flush()
        shown = screen.read(10_000)
    get_settings.cache_clear()

    percents = [int(percent) for percent in re.findall(rb"(\d+)%", shown)]
    assert b"Importing" in shown
    assert (percents[0], percents[-1]) == (0, 100)
    assert any(0 < percent < 100 for percent in percents)


@contextmanager
def an_import(url: str, lines: bytes) -> Iterator[subprocess.Popen[bytes]]:
    """Run an import that has read these lines, and waits for more."""
    with subprocess.Popen(
        [ITEMS, "import", "-"],
        cwd=ROOT,
        env=clean_environment() | {"DATABASE_URL": url},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdin
        process.stdin.write(lines)
        process.stdin.flush()
        try:
            yield process
        finally:
            process.kill()


@contextmanager
def half_an_import(url: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run an import that has sent one batch to the database, and waits for more lines."""
    with an_import(url, numbered_rows(commands.BATCH + 1)) as process:
        # A sequence shows what a transaction has taken from it before that is committed.
        wait_until(lambda: query(url, "SELECT last_value FROM items_id_seq") == [(commands.BATCH,)])
        wait_until(lambda: query(url, OTHERS.format("state = 'idle in transaction'")) != [])
        yield process


def test_an_import_from_stdin_is_visible_only_as_a_whole(url: str) -> None:
    with half_an_import(url) as process:
        assert stored(url) == []
        stdout, stderr = process.communicate(b'{"name": "Last"}', TIMEOUT)

    assert (process.returncode, stdout) == (0, b"")
    assert stderr.endswith(f"Imported {commands.BATCH + 2:,} items\n".encode())
    assert stored(url) == [*(f"Item {n}" for n in range(1, commands.BATCH + 2)), "Last"]


def interrupt(process: subprocess.Popen[bytes]) -> None:
    """Send Ctrl-C; assert that the import ends."""
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=TIMEOUT)
    assert (process.returncode, stderr.splitlines()[-1]) == (1, b"Aborted!")


def check_nothing_is_left(url: str) -> None:
    """Assert that an import that was ended has left neither a transaction nor items."""
    wait_until(lambda: query(url, OTHERS.format("xact_start < now()")) == [])
    assert stored(url) == []


def test_ctrl_c_ends_an_import_that_waits_for_lines(url: str) -> None:
    with half_an_import(url) as process:
        interrupt(process)
    check_nothing_is_left(url)


def test_ctrl_c_ends_an_import_that_waits_for_the_database(url: str) -> None:
    rows = numbered_rows(commands.BATCH + 1)
    with an_import(url, rows) as process, holding(url, "BEGIN; LOCK TABLE items IN SHARE MODE"):
        wait_until(lambda: query(url, OTHERS.format("wait_event_type = 'Lock'")) != [])
        interrupt(process)
    check_nothing_is_left(url)
