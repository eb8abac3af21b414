"""The alerts: promtool accepts them, and a real Prometheus evaluates them on the real service."""

import asyncio
import re
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest

from service.main import create_app
from service.settings import Settings
from tests.support.apps import address, listening, serving
from tests.support.commands import ROOT
from tests.support.metrics import scrape_until
from tests.support.processes import free_port
from tests.support.waiting import TIMEOUT

CONFIG = ROOT / "docker" / "prometheus.yml"
ALERTS = (ROOT / "docker" / "alerts.yml").read_text()
# Each selector in the expressions names the job.
METRICS = set(re.findall(r'(\w+)\{job="items"', ALERTS))
LABELS = set(re.findall(r"(?:\$labels\.|, )(\w+)(?= }}|[!=])", ALERTS))
NAMES = re.findall(r"- alert: (\w+)", ALERTS)


def program(name: str) -> str:
    """Return the path of one of Prometheus's programs."""
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"LEFT OUT: what takes {name}, as Prometheus is not installed")
    return path


@asynccontextmanager
async def prometheus(target: str, folder: Path) -> AsyncIterator[httpx.AsyncClient]:
    """Run Prometheus with the project's configuration, but scraping each second.

    Args:
        target: the host and port to scrape, in place of what Docker's DNS answers.

    Yields:
        A client of its API.
    """
    config, found = re.subn(
        r"dns_sd_configs: .*",
        f"static_configs: [{{ targets: ['{target}'] }}]",
        CONFIG.read_text().replace(": 15s", ": 1s"),
    )
    assert found == 1
    (folder / "prometheus.yml").write_text(config)
    (folder / "alerts.yml").write_text(ALERTS)
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        program("prometheus"),
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}/api/v1") as client:
            yield client
    finally:
        process.terminate()
        await process.wait()


async def data(client: httpx.AsyncClient, path: str, **parameters: str) -> Any:
    """Ask Prometheus's API; return None while it does not answer."""
    try:
        answer = await client.get(path, params=parameters)
    except httpx.TransportError:
        return None
    return answer.json()["data"] if answer.is_success else None


@pytest.mark.parametrize(
    "arguments",
    [
        ("check", "config", "docker/prometheus.yml"),
        ("check", "rules", "docker/alerts.yml"),
        ("test", "rules", "docker/alerts_test.yml"),
    ],
    ids=" ".join,
)
def test_promtool_accepts_the_configuration(arguments: tuple[str, ...]) -> None:
    ran = subprocess.run(
        [program("promtool"), *arguments], cwd=ROOT, capture_output=True, text=True
    )

    assert ran.returncode == 0, ran.stdout + ran.stderr


@pytest.mark.parametrize("alert", NAMES)
def test_each_alert_has_a_test_and_instructions(alert: str) -> None:
    tests = (ROOT / "docker" / "alerts_test.yml").read_text()
    guide = (ROOT / "docs" / "operations.md").read_text()

    assert f'ALERTS{{alertname="{alert}", alertstate="firing"' in tests
    assert f"docs/operations.md#{alert.lower()}\n" in ALERTS
    assert re.search(rf"^#+ {alert}$", guide, re.MULTILINE)


async def test_the_service_has_each_metric_and_label_of_the_alerts(settings: Settings) -> None:
    assert "coalescer_waiting" in METRICS
    settings.rate_limit_write = "1/hour"
    async with serving(create_app(settings)) as client:
        await client.get("/items/0")
        for _ in range(2):
            await client.delete("/items/0")
        samples = await scrape_until(
            client,
            # But for what Prometheus itself adds.
            lambda samples: {name for name, _ in samples} >= METRICS - {"up"},
        )

    labels = {name for _, labels in samples for name, _ in labels}
    assert labels >= LABELS - {"instance"} > {"call"}


async def test_prometheus_scrapes_the_service_and_raises_no_alert(
    settings: Settings, tmp_path: Path
) -> None:
    app = create_app(settings)
    reads = '{job="items", method="GET", route="/items/{item_id}", status="404"}'
    async with serving(app) as direct, listening(app) as server:
        for _ in range(3):
            assert (await direct.get("/items/0")).status_code == 404
        async with prometheus("{}:{}".format(*address(server)), tmp_path) as client:

            async def has_scraped() -> bool:
                query = f"sum(http_request_duration_seconds_count{reads}) >= 3"
                found = await data(client, "/query", query=query)
                return bool(found and found["result"])

            async def is_quiet() -> bool:
                found = await data(client, "/rules")
                (group,) = found["groups"]
                assert [rule["name"] for rule in group["rules"]] == NAMES
                states = {(rule["health"], rule["state"]) for rule in group["rules"]}
                return states == {("ok", "inactive")}

            async with asyncio.timeout(TIMEOUT):
                # Before the first scrape, the service counts as down.
                while not (await has_scraped() and await is_quiet()):  # noqa: ASYNC110 (no event)
                    await asyncio.sleep(0.1)
