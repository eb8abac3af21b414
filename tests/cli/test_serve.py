"""`items serve` as a process: its log from start to end, and how it stops."""

import re
import signal
import socket
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import httpx2 as httpx
import psutil
import pytest
from gunicorn.config import Config
from gunicorn.glogging import Logger

from service.server.worker import Worker
from tests.support.commands import items
from tests.support.processes import Server, query, running
from tests.support.unfinished import BODY, unfinished_request
from tests.support.waiting import TIMEOUT, wait_until

SECRET = "hunter2"


@dataclass
class Life:
    """What was seen of a server with two workers that has ended."""

    server: Server
    forwarded: httpx.Response
    direct: httpx.Response
    last: bytes
    metrics_folder: Path
    exit_code: int


@pytest.fixture(scope="module")
def life(database_url: str) -> Life:
    """Start a server, send it good and bad requests, and stop it in the middle of one."""
    environment = {
        "DATABASE_URL": database_url,
        "WEB_CONCURRENCY": "2",
        # For a busy machine, on which the request in flight takes longer.
        "REQUEST_TIMEOUT": str(TIMEOUT),
        "GUNICORN_CMD_ARGS": f"--graceful-timeout {TIMEOUT:.0f}",
    }
    with running("serve", env=environment) as server:
        port = httpx.URL(server.url).port or 0
        wait_until(lambda: len(server.events("started")) == 2)
        forwarded = httpx.get(f"{server.url}/items", headers={"X-Forwarded-For": "203.0.113.9"})
        direct = httpx.get(f"{server.url}/nowhere?q={SECRET}", headers={"Authorization": SECRET})
        with socket.create_connection(("127.0.0.1", port)) as broken:
            broken.sendall(b"NONSENSE\r\n\r\n")
            assert b" 400 " in broken.recv(1000)
        wait_until(lambda: metrics_folders(server))
        (folder,) = metrics_folders(server)
        with unfinished_request(server) as client:
            server.process.send_signal(signal.SIGTERM)
            wait_until(lambda: server.events("Shutting down"))
            client.sendall(BODY)
            last = b"".join(iter(lambda: client.recv(1000), b""))
        exit_code = server.process.wait(TIMEOUT)
    return Life(server, forwarded, direct, last, folder, exit_code)


def metrics_folders(server: Server) -> set[Path]:
    """Return where the workers count."""
    workers = psutil.Process(server.process.pid).children()
    files = [file.path for worker in workers for file in worker.open_files()]
    return {Path(file).parent for file in files if file.endswith(".db")}


def test_every_line_of_the_log_is_json(life: Life) -> None:
    server = life.server
    lines = server.lines()

    assert server.stderr().endswith("\n")
    assert server.stdout() == ""
    for line in lines:
        assert {"event", "level", "timestamp"} <= line.keys()
        assert "color_message" not in line  # uvicorn's copy for terminals
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]+Z", line["timestamp"])
    assert {"gunicorn.error", "uvicorn.error"} <= {line.get("logger") for line in lines}
    assert SECRET not in server.stderr()


def test_the_log_has_the_documented_events(life: Life) -> None:
    events = Counter(line["event"] for line in life.server.lines())
    ids = [line["request_id"] for line in life.server.events("request")]

    assert (events["started"], events["stopped"], events["connection_budget"]) == (2, 2, 1)
    assert events["API_KEYS is not set: every client may read and write"] == 1
    assert events["Invalid HTTP request received."] == 1
    assert len(set(ids)) == len(ids) >= 3  # of both workers


def test_the_log_names_the_client_behind_a_proxy(life: Life) -> None:
    assert life.server.line_of(life.forwarded)["client"] == "203.0.113.9"
    assert life.server.line_of(life.direct)["client"] == "127.0.0.1"


def test_a_request_in_flight_is_finished_before_the_end(life: Life, database_url: str) -> None:
    events = [line["event"] for line in life.server.lines()]

    assert life.exit_code == 0
    assert life.last.startswith(b"HTTP/1.1 201 Created")
    assert "stopped" in events[events.index("Shutting down") :]
    assert len(query(database_url, "SELECT FROM items WHERE name = 'Sent last'")) == 1


def test_nothing_is_left_in_memory_after_the_end(life: Life) -> None:
    assert not life.metrics_folder.exists()


@pytest.mark.parametrize(("graceful_timeout", "seconds"), [(15, 13), (2, 1)])
def test_a_worker_gives_up_requests_before_it_is_killed(
    graceful_timeout: int, seconds: int
) -> None:
    config = cast(Any, Config)()  # Gunicorn has no types
    config.set("graceful_timeout", graceful_timeout)
    worker: Any = Worker(0, 0, [], None, 0, config, cast(Any, Logger)(config))
    worker.tmp.close()

    assert worker.config.timeout_graceful_shutdown == seconds


def test_serve_requires_a_database_url() -> None:
    result = items("serve")

    assert (result.exit_code, result.stderr) == (1, "Error: DATABASE_URL is not set\n")
