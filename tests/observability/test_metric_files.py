"""The files in which workers count: summed up, continued by new workers, and removed."""

import http.client
import os
import runpy
import signal
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from fcntl import LOCK_EX, flock
from pathlib import Path
from typing import Any
from unittest.mock import Mock, patch
from urllib.parse import urlsplit

import httpx2 as httpx
import psutil
import pytest

from service.settings import get_settings
from tests.support.commands import ROOT, clean_environment, run
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


def test_the_folder_is_private_and_the_same_after_a_reload() -> None:
    with gunicorn_conf() as conf, gunicorn_conf() as again:
        folder = Path(conf["metrics_dir"])
        assert folder.stat().st_mode & 0o077 == 0
        assert again["metrics_dir"] == str(folder)
        # The master's successor after SIGUSR2 inherits its environment.
        assert "PROMETHEUS_MULTIPROC_DIR" not in os.environ
        conf["post_fork"](None, None)
        assert os.environ["PROMETHEUS_MULTIPROC_DIR"] == str(folder)


def make_folder_and(end: str, memory: Path, temporary: Path) -> Path:
    """Make a folder in another process, which then runs `end`; return the folder."""
    program = f"""
import os, signal, sys
from pathlib import Path
from service.observability import metric_files
metric_files.MEMORY = Path({str(memory)!r})
print(metric_files.make_folder(), flush=True)
{end}
"""
    ran = run("python", "-c", program, env={"TMPDIR": str(temporary)}, check=False)
    return Path(ran.stdout.strip())


@pytest.mark.parametrize(
    ("end", "stays"),
    [
        ("sys.exit(1)", False),  # as Gunicorn does if it cannot bind its address
        ("os.fork() or sys.exit(); os.wait()", False),  # a worker ends before its master
        ("os.kill(os.getpid(), signal.SIGKILL)", True),
    ],
)
def test_a_folder_stays_only_after_a_kill_and_the_next_start_deletes_it(
    tmp_path: Path, end: str, stays: bool
) -> None:
    folder = make_folder_and(end, tmp_path, tmp_path)
    assert (folder.parent, folder.exists()) == (tmp_path, stays)

    make_folder_and("", tmp_path, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_use_is_left_alone(tmp_path: Path) -> None:
    """Also while only a worker of a killed master still lives."""
    start = f"""
import subprocess, time
from tests.observability.test_metric_files import make_folder_and
pid = os.fork()
if pid == 0:
    os.close(1); os.close(2)  # what reads them waits for their end
    time.sleep(60)
make_folder_and("", Path({str(tmp_path)!r}), Path({str(tmp_path)!r}))
(Path({str(tmp_path)!r}) / "left").write_text(" ".join(
    path.name for path in Path({str(tmp_path)!r}).glob("items-metrics-*")
))
os.kill(pid, signal.SIGKILL)
"""
    folder = make_folder_and(start, tmp_path, tmp_path)

    assert (tmp_path / "left").read_text() == folder.name


def test_a_folder_of_which_a_slot_is_in_use_is_left_alone(tmp_path: Path) -> None:
    """Earlier versions lock the slots only."""
    (folder := tmp_path / "items-metrics-old").mkdir()
    with (folder / "0.lock").open("a") as slot:
        flock(slot, LOCK_EX)
        make_folder_and("", tmp_path, tmp_path)
        assert folder.exists()

    make_folder_and("", tmp_path, tmp_path)
    assert not folder.exists()


@pytest.mark.parametrize("memory", ["missing", "file"])
def test_without_memory_to_write_to_the_folder_is_a_temporary_one(
    tmp_path: Path, memory: str
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "temporary").mkdir()
    folder = make_folder_and("", tmp_path / memory, tmp_path / "temporary")

    assert folder.parent == tmp_path / "temporary"


def test_a_reload_and_an_end_leave_nothing(database_url: str) -> None:
    env = {"DATABASE_URL": database_url, "WEB_CONCURRENCY": "2"}
    with running("serve", env=env) as server:
        wait_until(lambda: folders(server))
        (folder,) = folders(server)
        server.process.send_signal(signal.SIGHUP)
        wait_until(lambda: len(server.events("started")) == 4)
        ask_both(server)
        assert folders(server) == {folder}
        assert server.end() == 0

    assert not folder.exists()


def test_a_start_deletes_the_gauges_of_killed_workers(tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("7.lock", "gauge_livesum_7.db", "counter_7.db")]
    for file in files:
        file.touch()
    with gunicorn_conf(PROMETHEUS_MULTIPROC_DIR=str(tmp_path)) as conf:
        conf["on_starting"](Mock())

    assert [file.exists() for file in files] == [True, False, True]


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

    (message,) = server.log.exception.call_args.args
    assert message == "The gauges of a worker that ended stay"
    assert tmp_path.exists()


def test_without_metrics_there_is_no_folder() -> None:
    with gunicorn_conf(METRICS_ENABLED="false") as conf:
        assert conf["metrics_dir"] is None
        conf["child_exit"](None, None)
