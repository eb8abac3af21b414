"""The files in which workers count: summed up, continued by new workers, and removed."""

import http.client
import os
import runpy
import signal
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import Mock, patch
from urllib.parse import urlsplit

import httpx2 as httpx
import psutil
import pytest

from service.settings import get_settings
from tests.support.commands import ROOT, clean_environment
from tests.support.metrics import Samples, parse, value
from tests.support.processes import Server, running
from tests.support.unfinished import unfinished_request
from tests.support.waiting import TIMEOUT, wait_until

COUNT = "http_request_duration_seconds_count"
LABELS = {"method": "GET", "route": "/items/{item_id}", "status": "404"}


@pytest.fixture(scope="module")
def server(database_url: str) -> Iterator[Server]:
    """The service with two workers."""
    environment = {
        "DATABASE_URL": database_url,
        "WEB_CONCURRENCY": "2",
        "POOL_SIZE": "3",
        "REQUEST_TIMEOUT": str(TIMEOUT),
    }
    with running("serve", env=environment) as server:
        yield server


def scrape(server: Server) -> Samples:
    return parse(httpx.get(f"{server.url}/metrics").text)


def gauge(server: Server, name: str) -> float:
    return value(scrape(server), name)


def count(server: Server) -> float:
    """Return how many reads of a missing item were counted."""
    return value(scrape(server), COUNT, **LABELS)


def ask(server: Server) -> int:
    """Read a missing item on a new connection, so that any worker may take it."""
    connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=TIMEOUT)
    with closing(connection):
        connection.request("GET", "/items/0")
        return connection.getresponse().status


def workers(server: Server) -> list[psutil.Process]:
    return psutil.Process(server.process.pid).children()


def folders(server: Server) -> set[Path]:
    """Return where the workers count; nothing until each of them has served a request."""
    found = [
        {Path(file.path).parent for file in worker.open_files() if "/histogram_" in file.path}
        for worker in workers(server)
    ]
    return set.union(*found) if len(found) == 2 and all(found) else set()


def ask_both(server: Server) -> int:
    """Send requests until each worker has served one; return how many were sent."""
    sent = 0

    def have_both_served() -> bool:
        nonlocal sent
        assert ask(server) == 404
        sent += 1
        return bool(folders(server))

    wait_until(have_both_served)
    return sent


def test_counts_are_summed_over_workers_and_survive_them(server: Server) -> None:
    sent = ask_both(server)
    wait_until(lambda: count(server) == sent)
    (folder,) = folders(server)
    old = workers(server)
    with ExitStack() as stack:
        clients = [stack.enter_context(unfinished_request(server)) for _ in range(4)]
        wait_until(lambda: gauge(server, "http_requests_in_progress") >= len(clients))
        wait_until(lambda: gauge(server, "database_connections_max") == 2 * (3 + 10))
        for worker in old:
            os.kill(worker.pid, signal.SIGKILL)
        wait_until(lambda: len(server.events("started")) == 4)

    # Counts stay; gauges are those of the living workers.
    assert count(server) == sent
    wait_until(lambda: gauge(server, "http_requests_in_progress") <= 1)
    wait_until(lambda: gauge(server, "database_connections_max") == 2 * (3 + 10))
    sent += ask_both(server)
    wait_until(lambda: count(server) == sent)
    slots = {file.stem.rpartition("_")[2] for file in folder.glob("*.db")}
    assert len(slots) == 2  # the new workers took the slots of the killed ones


@contextmanager
def gunicorn_conf(**environment: str) -> Iterator[dict[str, Any]]:
    """Read Gunicorn's configuration, as its master does at the start."""
    get_settings.cache_clear()
    with patch.dict(os.environ, clean_environment() | environment, clear=True):
        yield runpy.run_path(str(ROOT / "docker" / "gunicorn.conf.py"))
    get_settings.cache_clear()


def test_the_folder_is_private_and_removed_at_the_end() -> None:
    with gunicorn_conf() as conf:
        folder = Path(conf["metrics_dir"])
        assert os.environ["PROMETHEUS_MULTIPROC_DIR"] == str(folder)
        assert folder.stat().st_mode & 0o077 == 0
        conf["on_exit"](None)

        assert not folder.exists()


def test_gauges_of_a_free_slot_are_deleted_and_its_counters_stay(tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("0.lock", "gauge_livesum_0.db", "counter_0.db")]
    for file in files:
        file.touch()
    with gunicorn_conf(PROMETHEUS_MULTIPROC_DIR=str(tmp_path)) as conf:
        conf["child_exit"](Mock(), None)

    assert [file.exists() for file in files] == [True, False, True]


def test_an_error_in_a_given_folder_does_not_end_gunicorn(tmp_path: Path) -> None:
    (tmp_path / "0.lock").mkdir()
    server = Mock()
    with gunicorn_conf(PROMETHEUS_MULTIPROC_DIR=str(tmp_path)) as conf:
        conf["child_exit"](server, None)
        conf["on_exit"](None)

    (message,) = server.log.exception.call_args.args
    assert message == "The gauges of a worker that ended stay"
    assert tmp_path.exists()


def test_without_metrics_there_is_no_folder() -> None:
    with gunicorn_conf(METRICS_ENABLED="false") as conf:
        assert conf["metrics_dir"] is None
        conf["child_exit"](None, None)
