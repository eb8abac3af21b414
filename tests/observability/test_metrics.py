"""What /metrics says: the sum over all workers, also of those that are gone, in bounded labels."""

import asyncio
import http.client
import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

import httpx2 as httpx
import psutil
import pytest
from fastapi import FastAPI
from prometheus_client.mmap_dict import MmapedDict
from prometheus_client.parser import text_string_to_metric_families

from service import __version__
from service.main import create_app
from service.observability.metric_files import join_dead, unchanged
from service.observability.metrics import FLUSH_INTERVAL
from service.settings import Settings
from tests.support.apps import serving
from tests.support.processes import Server, holding, running
from tests.support.waiting import TIMEOUT, wait_until

REQUESTS = "http_request_duration_seconds_count"
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def read(text: str) -> Samples:
    """The samples of an exposition, by name and labels."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples.get((name, frozenset(labels.items())), 0.0)


def requests(samples: Samples) -> Counter[tuple[str, str, str]]:
    """How many were answered, by method, route and status, but for those to read the metrics."""
    counts: Counter[tuple[str, str, str]] = Counter()
    for (name, labels), count in samples.items():
        if name == REQUESTS and dict(labels)["route"] not in ("/metrics", "/health/live"):
            of = dict(labels)
            counts[of["method"], of["route"], of["status"]] = int(count)
    return counts


def metrics_of(server: Server) -> Samples:
    time.sleep(2 * FLUSH_INTERVAL)
    answer = httpx.get(f"{server.url}/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    return read(answer.text)


def ask(server: Server, method: str, path: str) -> int:
    """Send a request on a connection of its own, for whichever worker takes it."""
    connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=TIMEOUT)
    with closing(connection):
        connection.request(method, path)
        return connection.getresponse().status


def workers(server: Server) -> list[psutil.Process]:
    """The processes that serve and have started to."""
    return psutil.Process(server.process.pid).children()


def kill_workers(server: Server) -> None:
    """Kill both, and wait for those that take their place."""
    wait_until(lambda: len(server.events("started")) >= 2)
    started = len(server.events("started"))
    for worker in workers(server):
        os.kill(worker.pid, signal.SIGKILL)
    wait_until(lambda: len(server.events("started")) == started + 2)


def files_of(worker: psutil.Process) -> set[Path]:
    """Where a worker keeps what it counts."""
    return {Path(f.path) for f in worker.open_files() if f.path.endswith(f"{worker.pid}.db")}


def owners(folder: Path) -> set[str]:
    """Of the files in which workers count."""
    return {file.stem.rpartition("_")[2] for file in folder.glob("*.db")}


@pytest.fixture(scope="module")
def server(database_url: str) -> Iterator[Server]:
    """The service with two workers."""
    environment = {"DATABASE_URL": database_url, "WEB_CONCURRENCY": "2", "POOL_SIZE": "3"}
    with running("serve", env=environment) as server:
        wait_until(lambda: value(metrics_of(server), "database_connections_max") == 2 * (3 + 10))
        yield server


def test_the_counts_of_two_workers_are_those_of_the_requests_made(server: Server) -> None:
    item = "/items/{item_id}"
    calls = [
        ("GET", "/items", "/items", 200),
        ("GET", "/items/0", item, 404),
        ("HEAD", "/items/0", item, 404),
        ("GET", "/items/lamp", item, 422),
        ("POST", "/items", "/items", 422),
        ("DELETE", "/items/0", item, 404),
        ("PUT", "/items", "/items", 405),
        ("GET", "/health/ready", "/health/ready", 200),
    ]
    before = requests(metrics_of(server))
    with ThreadPoolExecutor(8) as threads:
        statuses = list(threads.map(lambda call: ask(server, *call[:2]), calls * 25))
    assert statuses == [status for *_, status in calls] * 25

    made = Counter((method, route, str(status)) for method, _, route, status in calls * 25)
    wait_until(lambda: requests(metrics_of(server)) - before == made)
    # Both have served, or there was nothing to sum up.
    for worker in workers(server):
        assert any(file.name.startswith("histogram") for file in files_of(worker))


def test_the_durations_are_those_of_the_requests(server: Server) -> None:
    labels = {"method": "GET", "route": "/items/{item_id}", "status": "404"}
    before = metrics_of(server)
    for _ in range(20):
        assert ask(server, "GET", "/items/0") == 404

    def grown(name: str, **more: str) -> float:
        name = f"http_request_duration_seconds_{name}"
        after = metrics_of(server)
        return value(after, name, **labels, **more) - value(before, name, **labels, **more)

    wait_until(lambda: grown("count") == 20)
    assert grown("bucket", le="+Inf") == 20
    assert 0 < grown("sum") < 20 * TIMEOUT
    buckets = [grown("bucket", le=le) for le in ("0.001", "0.01", "0.1", "1.0", "10.0", "+Inf")]
    assert buckets == sorted(buckets)


def test_sets_and_the_build_are_told(server: Server) -> None:
    before = value(metrics_of(server), "coalescer_set_size_sum", call="item.get_many")
    for _ in range(10):
        ask(server, "GET", "/items/0")
    samples = metrics_of(server)

    assert value(samples, "coalescer_set_size_sum", call="item.get_many") - before == 10
    for call in ("item.get_many", "item.create_many", "item.list_pages", "item.search_pages"):
        assert ("coalescer_waiting", frozenset({("call", call)})) in samples
    (build,) = [dict(labels) for name, labels in samples if name == "service_build_info"]
    assert build["version"] == __version__


def test_paths_and_methods_of_clients_make_no_labels(server: Server) -> None:
    # So that nobody can fill the memory with them.
    methods = ["PROPFIND", "MKCOL", "PURGE", "TRACE", "OPTIONS", "SEARCH"]
    for n in range(20):
        assert ask(server, "GET", f"/made-up-{n}") == 404
        assert ask(server, "GET", f"/items/made-up-{n}") == 422
        assert ask(server, "GET", f"/items?made-up-{n}=1") == 422
        assert ask(server, f"MADEUP{n}", "/items") in (400, 405)
        assert ask(server, methods[n % len(methods)], f"/items/{n}") == 405
    samples = metrics_of(server)

    labels = {label for _, labels in samples for label in labels}
    assert not [label for _, label in labels if "made" in label.lower()]
    routes = {label for name, label in labels if name == "route"}
    assert "unmatched" in routes
    assert routes <= {
        *("/items", "/items/{item_id}", "/items/bulk", "/items/export", "unmatched", "/metrics"),
        *("/health", "/health/live", "/health/ready", "/docs", "/openapi.json"),
    }


def test_what_is_under_way_is_told_and_forgotten_when_its_worker_is_killed(
    database_url: str, server: Server
) -> None:
    ask(server, "GET", "/items/0")
    before = metrics_of(server)
    with holding(database_url, "BEGIN; LOCK TABLE items"), ThreadPoolExecutor(8) as threads:
        asked = [threads.submit(ask, server, "GET", f"/items/{n}") for n in range(8)]

        def gauge(name: str) -> float:
            return value(metrics_of(server), name)

        wait_until(lambda: gauge("http_requests_in_progress") >= 8)
        assert gauge("database_connections_in_use") >= 1
        kill_workers(server)
        assert all(isinstance(request.exception(TIMEOUT), OSError) for request in asked)

        # The new ones count from nothing; what the old ones have counted stays.
        wait_until(lambda: gauge("http_requests_in_progress") <= 2)
        wait_until(lambda: gauge("database_connections_in_use") == 0)
        wait_until(lambda: gauge("database_connections_max") == 2 * (3 + 10))
    after = metrics_of(server)
    assert requests(after) >= requests(before)
    assert value(after, "coalescer_set_size_count", call="item.get_many") >= value(
        before, "coalescer_set_size_count", call="item.get_many"
    )


def test_what_the_dead_have_counted_is_kept_in_one_file_of_each_kind(server: Server) -> None:
    for _ in range(3):
        for _ in range(20):
            ask(server, "GET", "/items/0")
        before = metrics_of(server)
        kill_workers(server)
        after = metrics_of(server)
        assert requests(after) == requests(before)
        assert value(after, "coalescer_set_size_sum", call="item.get_many") == value(
            before, "coalescer_set_size_sum", call="item.get_many"
        )
    alive = workers(server)
    wait_until(lambda: all(files_of(worker) for worker in alive))
    (folder,) = {file.parent for worker in alive for file in files_of(worker)}
    assert owners(folder) == {"dead", *(str(worker.pid) for worker in alive)}
    with unchanged(folder):  # a scrape is under way: gauges are of the living all the same
        kill_workers(server)
        assert {str(worker.pid) for worker in alive} <= owners(folder)
        assert value(metrics_of(server), "database_connections_max") <= 2 * (3 + 10)
    kill_workers(server)
    assert owners(folder).isdisjoint(str(worker.pid) for worker in alive)


def test_what_is_read_does_not_move_meanwhile(tmp_path: Path) -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    mine, its = (tmp_path / f"counter_{process}.db" for process in (os.getpid(), ended.pid))
    for file in (mine, its):
        sums = MmapedDict(file)
        sums.write_value("requests", 3.0, 0.0)
        sums.close()
    (tmp_path / f"histogram_{ended.pid}.db").touch()  # it was killed before it counted
    with unchanged(tmp_path):
        join_dead(tmp_path)
        assert its.exists()
    join_dead(tmp_path)
    joined = tmp_path / "counter_dead.db"
    assert set(tmp_path.glob("*.db")) == {mine, joined}
    ((_, number, _, _),) = MmapedDict.read_all_values_from_file(joined)
    assert number == 3


def test_a_file_that_is_broken_does_not_end_the_service(database_url: str, tmp_path: Path) -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    (tmp_path / f"counter_{ended.pid}.db").write_bytes(b"\xff\x0f\0\0" * 4)
    environment = {
        **{"DATABASE_URL": database_url, "WEB_CONCURRENCY": "2"},
        "PROMETHEUS_MULTIPROC_DIR": str(tmp_path),
    }
    with running("serve", env=environment) as server:
        kill_workers(server)
        assert len(server.events("Metrics of a worker that ended are left as they are")) == 2
        assert ask(server, "GET", "/health/live") == 200
        assert server.end() == 0
    assert tmp_path.exists()  # it is not the service's own


def test_nothing_is_left_behind(database_url: str) -> None:
    environment = {"DATABASE_URL": database_url, "WEB_CONCURRENCY": "1"}
    with running("serve", env=environment) as server:
        ask(server, "GET", "/items")
        (worker,) = workers(server)
        wait_until(lambda: bool(files_of(worker)))
        (folder,) = {file.parent for file in files_of(worker)}
        assert folder.stat().st_mode & 0o077 == 0
        assert server.end() == 0

        assert not folder.exists()


async def test_a_single_process_tells_its_own(client: httpx.AsyncClient) -> None:
    before = read((await client.get("/metrics")).text)
    for _ in range(3):
        await client.get("/items/0")
    await asyncio.sleep(2 * FLUSH_INTERVAL)
    after = read((await client.get("/metrics")).text)

    labels = {"method": "GET", "route": "/items/{item_id}", "status": "404"}
    assert value(after, REQUESTS, **labels) - value(before, REQUESTS, **labels) == 3
    assert value(after, "http_requests_in_progress") >= 0


async def test_refusals_for_a_limit_are_counted(settings: Settings) -> None:
    settings.rate_limit_write = "2/hour"
    async with serving(create_app(settings)) as client:
        before = read((await client.get("/metrics")).text)
        for _ in range(5):
            await client.delete("/items/0")
        after = read((await client.get("/metrics")).text)

    name, labels = "rate_limited_requests_total", {"kind": "write"}
    assert value(after, name, **labels) - value(before, name, **labels) == 3


async def test_metrics_can_be_switched_off(settings: Settings) -> None:
    settings.metrics_enabled = False
    async with serving(create_app(settings)) as client:
        assert (await client.get("/metrics")).status_code == 404
        assert (await client.get("/items")).status_code == 200


async def test_metrics_are_not_part_of_the_documented_api(app: FastAPI) -> None:
    assert "/metrics" not in app.openapi()["paths"]
