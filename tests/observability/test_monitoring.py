"""Monitoring: the alerts, by promtool, and a real Prometheus that scrapes the real service."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.commands import ROOT
from tests.support.processes import Server, free_port, running
from tests.support.waiting import wait_until

CONFIG = ROOT / "docker" / "prometheus.yml"
ALERTS = ROOT / "docker" / "alerts.yml"
TESTS = ROOT / "docker" / "alerts_test.yml"
GUIDE = ROOT / "docs" / "operations.md"
# Of the alerts' expressions, each of whose selectors names the job, and of their texts.
METRICS = set(re.findall(r'(\w+)\{job="items"', ALERTS.read_text()))
LABELS = set(re.findall(r"(?:\$labels\.|, )(\w+)(?= }}|[!=])", ALERTS.read_text()))
NAMES = re.findall(r"- alert: (\w+)", ALERTS.read_text())
READS = 60  # more than a few, so that each worker serves some


def program(name: str) -> str:
    """The path of one of Prometheus's programs."""
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"LEFT OUT: what takes {name}, as Prometheus is not installed")
    return path


@pytest.fixture(scope="module")
def service(database_url: str) -> Iterator[Server]:
    """The service with two workers, after requests of each kind."""
    environment = {
        "DATABASE_URL": database_url,
        "WEB_CONCURRENCY": "2",
        "RATE_LIMIT_WRITE": "1/hour",  # without Redis, for each worker
    }
    with running("serve", env=environment) as server, ThreadPoolExecutor(8) as threads:

        def ask(request: tuple[str, str]) -> int:
            # On a connection of its own, for whichever worker takes it.
            method, path = request
            return httpx.request(method, f"{server.url}{path}", timeout=30).status_code

        writes = list(threads.map(ask, [("POST", "/items")] * 3))
        assert 429 in writes
        paths = ["/items", "/items?q=lamp", "/items?page=2", "/health/ready", "/nowhere"]
        for path in paths:
            ask(("GET", path))
        reads = list(threads.map(ask, [("GET", "/items/0")] * READS))
        assert reads == [404] * READS
        yield server


@contextmanager
def prometheus(target: str, folder: Path) -> Iterator[httpx.Client]:
    """Prometheus with the project's configuration, in haste. Yields a client of its API.

    Args:
        target: what it scrapes, as there is no Docker to know it.
    """
    config, found = re.subn(
        r"dns_sd_configs: .*",
        f"static_configs: [{{ targets: ['{target}'] }}]",
        CONFIG.read_text().replace(": 15s", ": 1s"),
    )
    assert found == 1
    (folder / "prometheus.yml").write_text(config)
    shutil.copy(ALERTS, folder)
    port = free_port()
    command = [
        program("prometheus"),
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    log = folder / "log"
    with log.open("wb") as file, subprocess.Popen(command, stderr=file) as process:
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
                wait_until(lambda: is_ready(client, process, log))
                yield client
        finally:
            process.terminate()


def is_ready(client: httpx.Client, process: subprocess.Popen[bytes], log: Path) -> bool:
    assert process.poll() is None, log.read_text()
    try:
        return client.get("/-/ready").is_success
    except httpx.TransportError:
        return False


def value(client: httpx.Client, expression: str) -> float | None:
    """What an expression with one sample comes to, or None if it has none."""
    answer = client.get("/api/v1/query", params={"query": expression}).raise_for_status()
    samples: list[dict[str, Any]] = answer.json()["data"]["result"]
    assert len(samples) <= 1, samples
    return float(samples[0]["value"][1]) if samples else None


def rules(client: httpx.Client) -> list[dict[str, Any]]:
    """The alerts, with their health and state."""
    answer = client.get("/api/v1/rules").raise_for_status()
    (group,) = answer.json()["data"]["groups"]
    assert [rule["name"] for rule in group["rules"]] == NAMES
    rules: list[dict[str, Any]] = group["rules"]
    return rules


@pytest.mark.parametrize(
    "arguments",
    [
        ("check", "config", "docker/prometheus.yml"),
        ("check", "rules", "docker/alerts.yml"),
        ("test", "rules", "docker/alerts_test.yml"),
    ],
    ids=" ".join,
)
def test_promtool_agrees(arguments: tuple[str, ...]) -> None:
    ran = subprocess.run(
        [program("promtool"), *arguments], cwd=ROOT, capture_output=True, text=True
    )

    assert ran.returncode == 0, ran.stdout + ran.stderr


@pytest.mark.parametrize("alert", NAMES)
def test_each_alert_is_tested_and_leads_to_what_to_do(alert: str) -> None:
    assert f'ALERTS{{alertname="{alert}", alertstate="firing"' in TESTS.read_text()
    assert f"docs/operations.md#{alert.lower()}\n" in ALERTS.read_text()
    assert re.search(rf"^#+ {alert}$", GUIDE.read_text(), re.MULTILINE)


def test_the_service_has_the_metrics_that_alerts_are_about(service: Server) -> None:
    families = text_string_to_metric_families(httpx.get(f"{service.url}/metrics").text)
    samples = [sample for family in families for sample in family.samples]
    labels = {name for sample in samples for name in sample.labels}

    # But for what Prometheus itself adds.
    assert {sample.name for sample in samples} >= METRICS - {"up"} > {"coalescer_waiting"}
    assert labels >= LABELS - {"instance"} > {"call"}


def test_prometheus_scrapes_the_service_and_has_no_alert(service: Server, tmp_path: Path) -> None:
    reads = 'method="GET", route="/items/{item_id}", status="404"'
    with prometheus(service.url.removeprefix("http://"), tmp_path) as client:
        wait_until(lambda: value(client, 'up{job="items"}') == 1)
        count = value(client, f'sum(http_request_duration_seconds_count{{job="items", {reads}}})')
        assert count == READS
        # Before the first look at the service it is down.
        wait_until(lambda: all(rule["health"] == "ok" for rule in rules(client)))
        wait_until(lambda: all(rule["state"] == "inactive" for rule in rules(client)))
