"""The log of the real processes: JSON lines on stderr, whoever writes; what they say, and hide."""

import json
import re
import signal
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx2 as httpx
import pytest

from tests.support.commands import run
from tests.support.database import new_database
from tests.support.processes import Server, query, running, script
from tests.support.waiting import TIMEOUT, wait_until

SECRET = "hunter2"
LAST_WORDS = b'{"name": "Sent at last"}'


@pytest.fixture(scope="module")
def server(database_url: str) -> Iterator[Server]:
    with running("serve", env={"DATABASE_URL": database_url, "WEB_CONCURRENCY": "1"}) as server:
        yield server


def test_every_line_is_json_from_the_start_to_the_end(database_url: str) -> None:
    environment = {"DATABASE_URL": database_url, "WEB_CONCURRENCY": "2"}
    with running("serve", env=environment) as server, httpx.Client(base_url=server.url) as client:
        wait_until(lambda: len(server.events("started")) == 2)
        before = len(server.events("request"))
        with ThreadPoolExecutor(8) as threads:
            answers = list(threads.map(client.get, ["/items", "/health/ready", "/nowhere"] * 20))
        with socket.create_connection(("127.0.0.1", client.base_url.port or 0)) as broken:
            broken.sendall(b"NONSENSE\r\n\r\n")
            assert b"400" in broken.recv(1000)
        exit_code = server.end()

    assert exit_code == 0
    assert server.stderr().endswith("\n")
    assert server.stdout() == ""
    lines = server.lines()
    for line in lines:
        assert {"event", "level", "timestamp"} <= line.keys()
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]+Z", line["timestamp"])
    assert {"gunicorn.error", "uvicorn.error"} <= {line.get("logger") for line in lines}
    assert server.events("Invalid HTTP request received.")
    assert server.events("Everyone may do everything: API_KEYS is not set")
    assert len(server.events("stopped")) == 2
    assert len(server.events("request")) - before == len(answers)
    assert len({line["request_id"] for line in server.events("request")}) == before + len(answers)


@pytest.mark.parametrize(
    ("method", "path", "route", "status"),
    [
        ("GET", "/items?q=x", "/items", 200),
        ("HEAD", "/items", "/items", 200),
        ("GET", "/items/999999", "/items/{item_id}", 404),
        ("PUT", "/items/999999", "/items/{item_id}", 422),
        ("DELETE", "/items", "/items", 405),
        ("GET", "/nowhere", None, 404),
        ("GET", "/health/live", "/health/live", 200),
    ],
)
def test_a_request_is_one_line(
    server: Server, method: str, path: str, route: str | None, status: int
) -> None:
    answer = httpx.request(method, server.url + path)
    line = server.line_of(answer)

    assert answer.status_code == status
    assert line["level"] == "info"
    assert (line["method"], line["status"], line["client"]) == (method, status, "127.0.0.1")
    assert line["bytes"] == len(answer.content)
    assert isinstance(line["duration_ms"], float)
    assert line["duration_ms"] > 0
    assert line["route"] == route


def test_a_client_behind_a_proxy_is_named(server: Server) -> None:
    answer = httpx.get(f"{server.url}/items", headers={"X-Forwarded-For": "203.0.113.9"})

    assert server.line_of(answer)["client"] == "203.0.113.9"


@pytest.mark.parametrize(
    "given", ["abc-123", "x" * 128, "0b5ab6e6-5b1f-4d3c-8d0e-6a1d2f3c4b5a", "Root=1:a/b+c@d.e_f"]
)
def test_a_well_formed_request_id_is_taken(server: Server, given: str) -> None:
    answer = httpx.get(f"{server.url}/items/999999", headers={"X-Request-ID": given})

    assert answer.headers.get_list("x-request-id") == [given]
    assert answer.json()["request_id"] == given
    assert server.line_of(answer)["request_id"] == given


@pytest.mark.parametrize(
    "given", [b"", b"x" * 129, b"a b", b'a"b', b"<b>", b"a\tb", b"\xc3\xa9", b"a,b", b"{}"]
)
def test_another_request_id_is_made_anew(server: Server, given: bytes) -> None:
    headers = [(b"X-Request-ID", given)]
    answers = [httpx.get(f"{server.url}/items/999999", headers=headers) for _ in range(2)]

    made = [answer.headers.get_list("x-request-id") for answer in answers]
    assert made[0] != made[1]
    for answer, (id_,) in zip(answers, made, strict=True):
        assert re.fullmatch(r"[\w.-]{8,128}", id_)
        assert answer.json()["request_id"] == id_


def test_nothing_that_a_client_sends_as_content_is_logged(server: Server) -> None:
    for answer in (
        httpx.post(f"{server.url}/items", json={"name": SECRET, "description": SECRET}),
        httpx.post(f"{server.url}/items", json={"name": [SECRET]}),
        httpx.post(f"{server.url}/items", content=SECRET),
        httpx.patch(f"{server.url}/items/1", json={"price": SECRET}),
        httpx.get(f"{server.url}/items", params={"q": SECRET, "sort": SECRET}),
        httpx.get(f"{server.url}/items", headers={"Authorization": f"Bearer {SECRET}"}),
    ):
        server.line_of(answer)

    assert SECRET not in server.stderr()


def test_an_unhandled_error_is_structured_and_holds_no_values(server_url: str) -> None:
    with new_database(server_url) as url:
        run("alembic", "upgrade", "head", env={"DATABASE_URL": url})
        # What the service stores it cannot put into JSON.
        script(url, "ALTER TABLE items DROP version, ADD version bytea DEFAULT 'v'")
        environment = {"DATABASE_URL": url, "WEB_CONCURRENCY": "1"}
        with running("serve", env=environment) as server:
            answer = httpx.post(f"{server.url}/items", json={"name": SECRET, "price": 4711})
            server.line_of(answer)

    assert answer.status_code == 500
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["type"] == "urn:items-service:internal-error"
    assert "Traceback" not in answer.text
    (line,) = [line for line in server.lines() if line["level"] == "error"]
    assert line["request_id"] == answer.headers["x-request-id"]
    frames = [frame for exception in line["exception"] for frame in exception["frames"]]
    assert all(exception["exc_type"] for exception in line["exception"])
    assert any(frame["filename"].endswith("routers/item.py") for frame in frames)
    for value in (SECRET, "4711", url):
        assert value not in server.stderr()


@contextmanager
def half_a_request(server: Server) -> Iterator[socket.socket]:
    """A connection on which the service is in the midst of a request, waiting for LAST_WORDS."""
    head = (
        "POST /items HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(LAST_WORDS)}\r\nExpect: 100-continue\r\n\r\n"
    )
    port = httpx.URL(server.url).port or 0
    with socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT) as client:
        client.sendall(head.encode())
        assert client.recv(1000).startswith(b"HTTP/1.1 100 Continue")
        yield client


def test_a_request_in_flight_is_finished_before_the_end(database_url: str) -> None:
    environment = {"DATABASE_URL": database_url, "WEB_CONCURRENCY": "1"}
    with running("serve", env=environment) as server, half_a_request(server) as client:
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: bool(server.events("Shutting down")))
        client.sendall(LAST_WORDS)
        answer = b"".join(iter(lambda: client.recv(1000), b""))
        assert server.process.wait(TIMEOUT) == 0

    assert answer.startswith(b"HTTP/1.1 201 Created")
    events = [line["event"] for line in server.lines()]
    assert "stopped" in events[events.index("Shutting down") :]
    stored = query(database_url, "SELECT FROM items WHERE name = 'Sent at last'")
    assert len(stored) == 1


def test_a_request_that_does_not_finish_does_not_stand_in_the_way_of_the_end(
    database_url: str,
) -> None:
    environment = {
        "DATABASE_URL": database_url,
        "WEB_CONCURRENCY": "1",
        "GUNICORN_CMD_ARGS": "--graceful-timeout 3",
    }
    with running("serve", env=environment) as server, half_a_request(server):
        assert server.end() == 0

    assert len(server.events("stopped")) == 1


def test_whoever_writes_writes_the_same_way() -> None:
    loggers = ["sqlalchemy.pool", "uvicorn.error", "gunicorn.error", "asyncio", "any.library"]
    program = f"""
import logging
from service.observability.logs import configure_logging
from service.settings import get_settings

configure_logging(get_settings())
for name in {loggers}:
    logging.getLogger(name).warning("It says %s", "\\ud800")
    try:
        secret = "{SECRET}"
        raise ValueError
    except ValueError:
        logging.getLogger(name).exception("It failed")
"""
    ran = run("python", "-c", program, env={})

    lines = [json.loads(line) for line in ran.stderr.splitlines()]
    assert [line["logger"].strip("'") for line in lines] == [n for n in loggers for _ in range(2)]
    for line in lines[1::2]:
        assert line["event"] == "It failed"
        assert line["exception"][0]["exc_type"] == "ValueError"
    assert SECRET not in ran.stderr


@pytest.mark.parametrize("command", [("alembic", "upgrade", "head"), ("items", "migrate", "--sql")])
def test_migrations_log_the_same_way(database_url: str, command: tuple[str, ...]) -> None:
    lines = run(*command, env={"DATABASE_URL": database_url}).stderr.splitlines()

    assert [json.loads(line)["level"] for line in lines] == ["info"] * len(lines)
    assert "alembic.runtime.migration" in {json.loads(line)["logger"] for line in lines}


def test_the_console_format_is_for_people(database_url: str) -> None:
    environment = {"DATABASE_URL": database_url, "LOG_FORMAT": "console"}
    (first, *_) = run("alembic", "upgrade", "head", env=environment).stderr.splitlines()

    assert re.match(r"\d{4}-\d\d-\d\dT[\d:.]+Z \[info +\] Context impl PostgresqlImpl\.", first)
    assert "\x1b" not in first  # not on a terminal: without colours


def test_debug_shows_the_sql_readably_and_no_trace_to_clients(database_url: str) -> None:
    environment = {"DATABASE_URL": database_url, "DEBUG": "true", "WEB_CONCURRENCY": "1"}
    with running("serve", env=environment) as server:
        answer = httpx.get(f"{server.url}/items/999999")
        wait_until(lambda: answer.headers["x-request-id"] in server.stderr())

    assert answer.status_code == 404
    assert re.search(r"\[info +\] .*SELECT items\.id", server.stderr())
    assert re.search(r"\[info +\] request .*status=404", server.stderr())
