"""`items import`, as users type it: all rows of a file or none, and what is wrong with which."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from fastapi.testclient import TestClient

from service.cli import main
from service.cli.data import BATCH, MOST_FAULTS
from service.main import create_app
from service.settings import Settings
from tests.support.commands import ROOT, clean_environment, run
from tests.support.processes import ITEMS, query, script
from tests.support.waiting import TIMEOUT, wait_until

Ran = subprocess.CompletedProcess[str]
GOOD = b'{"name": "Good"}'
FIELDS = ("name", "description", "price", "is_active")
IN_TRANSACTION = (
    "SELECT FROM pg_stat_activity WHERE datname = current_database()"
    " AND application_name = 'items-service' AND state = 'idle in transaction'"
)
# For longer than it takes to read a batch.
WAITING = f"{IN_TRANSACTION} AND state_change < clock_timestamp() - interval '0.4 s'"
# The import, by a process that PostgreSQL soon takes for a sleeper.
HASTY = """
from service import database
from service.cli import main

database.IDLE_IN_TRANSACTION_TIMEOUT_MS = 1000
main(["import", "-"])
"""

# Lines that hold no item, and the fields of each that are at fault; none, if it is the whole line.
BAD: list[tuple[bytes, str]] = [
    (b'{"name": "Lamp"', ""),
    (b'{"name": "Lamp",}', ""),
    (b"{'name': 'Lamp'}", ""),
    (b"name,price", ""),
    (b'{"name": "A"}{"name": "B"}', ""),
    (b'{"name": "Lamp"} x', ""),
    (b"[" * 100_000, ""),
    (b'{"name": "tab\there"}', ""),
    (b'{"name": "nul\0here"}', ""),
    (b'{"name": "nul\\u0000here"}', "name"),
    (b'{"name": "\\ud800"}', "name"),
    (b'{"name": "\xff"}', ""),
    (b'{"name": "\xed\xa0\x80"}', ""),
    ('{"name": "Lamp"}'.encode("utf-16-le"), ""),
    (b"\0", ""),
    (b"[]", ""),
    (b'[{"name": "Lamp"}]', ""),
    (b"{}", "name"),
    (b"null", ""),
    (b"5", ""),
    (b'"Lamp"', ""),
    (b'{"price": 1}', "name"),
    (b'{"name": null}', "name"),
    (b'{"name": 5}', "name"),
    (b'{"name": ""}', "name"),
    (b'{"name": " \\t "}', "name"),
    (b'{"name": "%s"}' % (b"n" * 256), "name"),
    (b'{"name": "Lamp", "description": []}', "description"),
    (b'{"name": "Lamp", "description": "%s"}' % (b"d" * 10_001), "description"),
    (b'{"name": 5, "price": -1, "is_active": "yes"}', "name price is_active"),
    (b'{"name": "Lamp", "is_active": 1}', "is_active"),
    (b'{"name": "Lamp", "is_active": null}', "is_active"),
    (b'{"name": "Lamp", "price": "1"}', "price"),
    (b'{"name": "Lamp", "price": true}', "price"),
    (b'{"name": "Lamp", "price": -0.01}', "price"),
    (b'{"name": "Lamp", "price": 0.001}', "price"),
    (b'{"name": "Lamp", "price": 10000000000}', "price"),
    (b'{"name": "Lamp", "price": 1e400}', "price"),
    (b'{"name": "Lamp", "price": 1e999999999999999999999}', ""),
    (b'{"name": "Lamp", "price": %s}' % (b"9" * 5000), ""),
    (b'{"name": "Lamp", "price": NaN}', ""),
    (b'{"name": "Lamp", "price": -Infinity}', ""),
]
# What the database takes as it came.
KEPT: list[dict[str, Any]] = [
    {"name": "Lamp", "description": None, "price": None, "is_active": False},
    {"name": 'a "b"\\', "description": "two\r\n\u2028lines", "price": 0, "is_active": True},
    {"name": "é 台灯 \U0001f4a1", "description": "", "price": 9999999999.99, "is_active": True},
    {"name": "=1+1", "description": "'", "price": 0.1, "is_active": True},
    {"name": "\U0001f4a1" * 255, "description": "é" * 10_000, "price": 5, "is_active": True},
]


@pytest.fixture
def url(database_url: str) -> str:
    """A database without items."""
    script(database_url, "TRUNCATE items RESTART IDENTITY")
    return database_url


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "items.ndjson"


def import_file(url: str, file: Path) -> Ran:
    return run("items", "import", str(file), env={"DATABASE_URL": url}, check=False)


@contextmanager
def importing(url: str, *command: str) -> Iterator[subprocess.Popen[bytes]]:
    """The import of what is written to its stdin."""
    with subprocess.Popen(
        command or [ITEMS, "import", "-"],
        cwd=ROOT,
        env=clean_environment() | {"DATABASE_URL": url},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@contextmanager
def half_an_import(
    url: str, *command: str, rows: int = 2 * BATCH + 1
) -> Iterator[subprocess.Popen[bytes]]:
    """An import that has written two batches, in its transaction, and waits for more lines."""
    with importing(url, *command) as process:
        assert process.stdin
        process.stdin.write(numbered_rows(rows))
        process.stdin.flush()
        wait_until(lambda: bool(query(url, WAITING)))
        yield process


def end(process: subprocess.Popen[bytes], last_words: bytes = b"") -> Ran:
    stdout, stderr = process.communicate(last_words, TIMEOUT)
    return Ran(process.args, process.returncode, stdout.decode(), stderr.decode())


def numbered_rows(number: int) -> bytes:
    return b"".join(b'{"name": "Item %d"}\n' % n for n in range(1, number + 1))


def stored(url: str) -> list[Any]:
    return [row[0] for row in query(url, "SELECT name FROM items ORDER BY id")]


def check_imported(ran: Ran, number: int) -> None:
    """It ended well, and says so."""
    told = f"Importing\nImported {number:,} items\n"
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", told)


def faults(ran: Ran) -> list[str]:
    """What it said of the lines; otherwise it failed as it should."""
    assert (ran.returncode, ran.stdout) == (1, "")
    label, title, *lines = ran.stderr.splitlines()
    assert (label, title) == ("Importing", "Error: Nothing was imported:")
    return lines


def places(lines: Sequence[str]) -> list[str]:
    assert all(line.partition(": ")[2] for line in lines)
    return [line.partition(": ")[0] for line in lines]


def test_every_bad_row_is_told_by_its_line_and_nothing_is_imported(url: str, file: Path) -> None:
    # Good lines and blank ones stand between, and count.
    file.write_bytes(GOOD + b"\n" + b"".join(b"\r\n%s\n%s\n" % (line, GOOD) for line, _ in BAD))
    lines = faults(import_file(url, file))

    assert places(lines) == [
        f"line {3 * n}{f', {field}' if field else ''}"
        for n, (_, fields) in enumerate(BAD, 1)
        for field in fields.split() or [""]
    ]
    assert stored(url) == []


def test_every_spelling_of_a_price_is_taken(url: str, file: Path) -> None:
    # The driver by itself refuses some of these.
    zeros = ("0", "-0.0", "0e-500", "0e-20000", "0e-999999", "0E+999999999", f"0.{'0' * 5000}")
    prices = (*zeros, "1e1", "1.0E+1", "10.00", "9999999999.99")
    file.write_text("".join(f'{{"name": "Lamp", "price": {price}}}\n' for price in prices))
    check_imported(import_file(url, file), len(prices))

    rows = query(url, "SELECT price::float8 FROM items ORDER BY id")
    assert [price for (price,) in rows] == [*(0.0 for _ in zeros), 10, 10, 10, 9999999999.99]


@pytest.mark.parametrize("number", [MOST_FAULTS, 3 * MOST_FAULTS])
def test_so_many_bad_rows_are_told_and_the_others_counted(
    url: str, file: Path, number: int
) -> None:
    between = (GOOD + b"\n") * 99  # so that they are in several batches
    file.write_bytes((between + b"{}\n") * number)
    lines = faults(import_file(url, file))

    assert places(lines[:MOST_FAULTS]) == [f"line {100 * n}, name" for n in range(1, 101)]
    more = number - MOST_FAULTS
    assert lines[MOST_FAULTS:] == ([f"and {more} more"] if more else [])
    assert stored(url) == []


def test_lines_end_as_they_like_and_blank_ones_do_not_count(url: str, file: Path) -> None:
    foreign = b'{"name": "C", "id": 77, "version": 9, "created_at": 5, "colour": "red"}'
    file.write_bytes(
        b'\n{"name": "A"}\n \t\r\n{"name": "B"}\r\n\n\r\n%s\n\x0c\n  { "name" : "D" }' % foreign
    )
    check_imported(import_file(url, file), 4)

    rows = query(url, "SELECT id, name, description, price, is_active, version FROM items")
    assert rows == [(n, name, None, None, True, 1) for n, name in enumerate("ABCD", 1)]


def test_an_empty_file_is_no_fault(url: str, file: Path) -> None:
    file.touch()
    check_imported(import_file(url, file), 0)

    assert stored(url) == []


def test_what_an_export_wrote_can_be_imported_again(url: str, settings: Settings) -> None:
    with TestClient(create_app(settings)) as client:
        for item in KEPT:
            assert client.post("/items", json=item).status_code == 201
        exported = client.get("/items/export").content
        script(url, "TRUNCATE items RESTART IDENTITY")
        with importing(url) as process:
            check_imported(end(process, exported), len(KEPT))
        again = client.get("/items/export").content

    assert [
        {name: json.loads(line)[name] for name in FIELDS} for line in again.splitlines()
    ] == KEPT
    assert [json.loads(line)["id"] for line in again.splitlines()] == list(range(1, len(KEPT) + 1))


@pytest.mark.parametrize("path", ["nowhere.ndjson", "."])
def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path, path: str) -> None:
    result = CliRunner().invoke(main, ["import", str(tmp_path / path)])

    assert (result.exit_code, result.stdout) == (2, "")
    assert "FILE" in result.stderr
    assert "Traceback" not in result.stderr


def test_without_a_database_the_import_says_so(file: Path) -> None:
    file.write_bytes(GOOD)
    ran = import_file("postgresql://127.0.0.1:1/nothing", file)

    assert (ran.returncode, ran.stdout) == (1, "")
    label, error = ran.stderr.splitlines()
    assert (label, error[:20]) == ("Importing", "Error: The database:")


def test_what_the_database_alone_refuses_leaves_nothing(url: str, file: Path) -> None:
    file.write_bytes(numbered_rows(BATCH + 5))
    script(url, f"ALTER TABLE items ADD CONSTRAINT odd CHECK (name <> 'Item {BATCH + 3}')")
    try:
        ran = import_file(url, file)
    finally:
        script(url, "ALTER TABLE items DROP CONSTRAINT odd")

    assert (ran.returncode, ran.stdout) == (1, "")
    label, error = ran.stderr.splitlines()
    assert label == "Importing"
    assert error.startswith("Error: The database: ")
    assert '"odd"' in error
    assert stored(url) == []


def test_nobody_sees_half_an_import(url: str) -> None:
    with half_an_import(url) as process:
        assert stored(url) == []
        check_imported(end(process, b'{"name": "Last"}'), 2 * BATCH + 2)

    numbers = range(1, 2 * BATCH + 2)
    assert stored(url) == [*(f"Item {n}" for n in numbers), "Last"]


def test_a_bad_row_after_the_first_batches_leaves_nothing(url: str) -> None:
    with half_an_import(url) as process:
        ran = end(process, GOOD + b"\n{}")

    assert places(faults(ran)) == [f"line {2 * BATCH + 3}, name"]
    assert stored(url) == []


def test_ctrl_c_ends_an_import_that_waits_for_lines(url: str) -> None:
    with half_an_import(url) as process:
        process.send_signal(signal.SIGINT)
        assert process.wait(10) != 0

    wait_until(lambda: not query(url, IN_TRANSACTION))
    assert stored(url) == []


def test_ctrl_c_that_ends_the_source_too_leaves_nothing(url: str) -> None:
    with half_an_import(url, rows=2 * BATCH) as process:  # which leaves nothing but the commit
        process.send_signal(signal.SIGINT)
        ran = end(process)

    assert ran.returncode != 0
    assert stored(url) == []


@pytest.mark.parametrize("last", [GOOD, b"{}"])
def test_lines_may_come_slowly(url: str, last: bytes) -> None:
    with half_an_import(url, sys.executable, "-c", HASTY) as process:
        time.sleep(1.5)
        ran = end(process, last)

    if last == GOOD:
        check_imported(ran, 2 * BATCH + 2)
        assert len(stored(url)) == 2 * BATCH + 2
    else:
        assert places(faults(ran)) == [f"line {2 * BATCH + 2}, name"]


def test_a_terminal_shows_the_progress(url: str, file: Path) -> None:
    file.write_bytes(numbered_rows(2 * BATCH))
    ours, theirs = os.openpty()
    with os.fdopen(ours, "rb", buffering=0) as terminal:
        with subprocess.Popen(
            [ITEMS, "import", str(file)],
            cwd=ROOT,
            env=clean_environment() | {"DATABASE_URL": url, "TERM": "xterm"},
            stdout=subprocess.PIPE,
            stderr=theirs,
        ) as process:
            os.close(theirs)
            shown = b""
            while chunk := read_terminal(terminal.fileno()):
                shown += chunk
            assert process.stdout
            assert process.stdout.read() == b""
        assert process.returncode == 0

    percents = [int(percent) for percent in re.findall(rb"(\d+)%", shown)]
    assert b"Importing" in shown
    assert (percents[0], percents[-1]) == (0, 100)
    assert any(0 < percent < 100 for percent in percents)


def read_terminal(terminal: int) -> bytes:
    try:
        return os.read(terminal, 10_000)
    except OSError:  # the other end is closed
        return b""
