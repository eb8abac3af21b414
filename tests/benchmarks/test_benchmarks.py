"""`benchmarks load`: peers respond as the service does, and the report is written."""

import shutil
import subprocess
import sys
import tempfile
from datetime import datetime
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import httpx2 as httpx
import pytest
from click.testing import CliRunner

from benchmarks import pgbench, wrk
from benchmarks.__main__ import main
from benchmarks.peers import nothing, threads, usual
from benchmarks.plan import Plan, Timing
from benchmarks.report import write_report
from benchmarks.results import Measurement, Results, Spread, ratio
from service.settings import Settings
from tests.support.apps import serving
from tests.support.commands import ROOT, clean_environment

NEW = {"name": "Desk lamp", "description": None, "price": 29.99, "is_active": False}


def content(answer: httpx.Response) -> Any:
    """Return the JSON with its times parsed, as they may end with `Z` or `+00:00`."""
    body = answer.json()
    for item in body.get("items", [body]):
        for name in ("created_at", "updated_at"):
            item[name] = datetime.fromisoformat(item[name])
    return body


@pytest.mark.parametrize("create_app", [usual.create_app, threads.create_app])
async def test_a_peer_responds_as_the_service_does(
    create_app: Any, settings: Settings, client: httpx.AsyncClient
) -> None:
    async with serving(create_app(settings)) as peer:
        created = await peer.post("/items", json=NEW)
        assert created.status_code == 201
        item = content(created)
        assert {name: item[name] for name in NEW} == NEW
        path = f"/items/{item['id']}"
        assert content(await client.get(path)) == content(await peer.get(path)) == item
        page = content(await peer.get("/items?page=1&per_page=20"))
        assert page["items"] == [item]
        ours = content(await client.get("/items?page=1&per_page=20"))
        assert page == {name: ours[name] for name in page}
        assert (await peer.get("/items/999")).status_code == 404
        assert (await peer.post("/items", json={"name": ""})).status_code == 422


async def test_the_route_that_does_nothing_responds_with_an_item(
    settings: Settings, client: httpx.AsyncClient
) -> None:
    created = await client.post("/items", json=NEW)
    async with serving(nothing.create_app(settings)) as peer:
        assert content(await peer.get("/items/1")).keys() == created.json().keys()


def test_the_output_of_wrk_is_parsed() -> None:
    outcome = wrk.parse(
        "Running 2s test @ http://127.0.0.1:8000\n  2 threads and 64 connections\n"
        '{"requests":110,"seconds":2.000000,"p50":1.500,"p95":3.000,"p99":4.250,'
        '"refused":10,"broken":3}\n'
    )
    assert outcome == wrk.Outcome(100, 2.0, 13, 1.5, 3.0, 4.25)


def test_the_output_of_pgbench_is_parsed() -> None:
    outcome = pgbench.parse(
        "number of transactions actually processed: 12650\n"
        "number of failed transactions: 2 (0.016%)\n"
        "latency average = 0.158 ms\n"
        "initial connection time = 2.461 ms\n"
        "tps = 6325.000000 (without initial connection time)\n"
    )
    assert outcome == wrk.Outcome(12650, 2.0, 2)


def measurement(app: str, number: int, rate: float) -> Measurement:
    return Measurement(app, "read", 64, number, rate, errors=0, p50=1, p95=2, p99=3, app_cpu=80)


def test_a_ratio_is_taken_within_each_round() -> None:
    fast = [measurement("service", n, rate) for n, rate in ((1, 800), (2, 900), (3, 500))]
    slow = [measurement("usual", n, rate) for n, rate in ((1, 100), (2, 90), (3, 50))]
    assert ratio(fast, slow, "rate") == Spread(10, 8, 10)
    assert ratio(fast, slow, "app_cpu") == Spread(1, 1, 1)
    assert ratio(fast, slow, "database_cpu") is None


def test_the_report_is_written(tmp_path: Path) -> None:
    results = Results(
        machine={"Cores": "2"},
        options={"rows": 1000, "workers": 2, "rounds": 1, "seconds": 1},
        measurements=[measurement("service", 1, 9000), measurement("usual", 1, 1000)],
    )
    assert "9.0 (9.0-9.0)" in write_report(results, tmp_path)
    report = (tmp_path / "report.md").read_text()
    row = "| 64 | service | 9,000 | 1.0 | 2.0 | 3.0 | 0 | 80 | - | - | - | 9.0 (9.0-9.0) |"
    assert row in report
    assert "| Cores | 2 |" in report
    svg = ElementTree.parse(tmp_path / "read.svg").getroot()
    assert "9,000" in [text.text for text in svg.iter("{http://www.w3.org/2000/svg}text")]


def test_each_round_begins_with_another_application() -> None:
    plan = Plan(("service", "usual", "nothing"), ("read", "list"), (64,), 2, 2, Timing(0, 1, 1000))
    assert [(turn.scenario, turn.app) for turn in plan.turns()] == [
        *(("read", app) for app in ("service", "usual", "nothing")),
        *(("list", app) for app in ("service", "usual")),
        *(("read", app) for app in ("usual", "nothing", "service")),
        *(("list", app) for app in ("usual", "service")),
    ]


def test_without_wrk_the_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    result = CliRunner().invoke(main, ["--rounds", "1"])
    assert result.exit_code == 1
    assert "apt-get install wrk" in result.output


@pytest.mark.soak
@pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed")
def test_a_small_run() -> None:
    options = "--apps service,pgbench --scenarios create --connections 2 --workers 1"
    brief = "--rounds 1 --seconds 1 --warmup 0 --rows 1000"
    # Not in tmp_path, which is closed to the user that the embedded PostgreSQL runs as.
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            f"{sys.executable} -m benchmarks load {options} {brief} --out {folder}".split(),
            cwd=ROOT,
            env=clean_environment(),
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        assert "POST /items" in done.stdout
        # The data and the logs are removed.
        names = {path.name for path in Path(folder).iterdir()}
        assert names == {"create.svg", "report.md", "results.json"}
