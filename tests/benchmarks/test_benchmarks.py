"""`benchmarks load`: peers respond as the service does, and the report is written."""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from click.testing import CliRunner

from benchmarks import pgbench, wrk
from benchmarks.__main__ import main
from benchmarks.peers import threads, usual
from benchmarks.report import write_report
from benchmarks.results import Measurement, Results, Spread, ratio
from service.settings import Settings
from tests.support.apps import serving
from tests.support.commands import ROOT, clean_environment

NEW = {"name": "Desk lamp", "description": None, "price": 29.99, "is_active": False}


@pytest.mark.parametrize("create_app", [usual.create_app, threads.create_app])
async def test_a_peer_responds_as_the_service_does(
    create_app: Any, settings: Settings, client: httpx.AsyncClient
) -> None:
    async with serving(create_app(settings)) as peer:
        item = (await peer.post("/items", json=NEW)).json()
        assert {name: item[name] for name in NEW} == NEW
        # Their times may have another form.
        assert (await client.get(f"/items/{item['id']}")).json().keys() == item.keys()
        theirs, ours = [(await each.get("/items?page=1")).json() for each in (peer, client)]
        assert (theirs["items"], theirs["total"]) == ([item], 1)
        assert theirs.keys() <= ours.keys()
        assert (await peer.get("/items/999")).status_code == 404
        assert (await peer.post("/items", json={"name": ""})).status_code == 422


def test_the_output_of_the_load_generators_is_parsed() -> None:
    assert wrk.parse(
        "Running 2s test @ http://127.0.0.1:8000\n  2 threads and 64 connections\n"
        '{"requests":110,"seconds":2.000000,"p50":1.500,"p95":3.000,"p99":4.250,'
        '"refused":10,"broken":3}\n'
    ) == wrk.Outcome(100, 2.0, 13, 1.5, 3.0, 4.25)
    assert pgbench.parse(
        "number of transactions actually processed: 12650\n"
        "number of failed transactions: 2 (0.016%)\n"
        "tps = 6325.000000 (without initial connection time)\n"
    ) == wrk.Outcome(12650, 2.0, 2)


def measurement(app: str, number: int, rate: float) -> Measurement:
    return Measurement(app, "read", 64, number, rate, errors=0, p50=1, p95=2, p99=3, app_cpu=80)


def test_a_ratio_is_taken_within_each_round() -> None:
    fast = [measurement("service", n, rate) for n, rate in ((1, 800), (2, 900), (3, 500))]
    slow = [measurement("usual", n, rate) for n, rate in ((1, 100), (2, 90), (3, 50))]

    assert ratio(fast, slow, "rate") == Spread(10, 8, 10)
    assert ratio(fast, slow, "database_cpu") is None


def test_the_report_is_written(tmp_path: Path) -> None:
    results = Results(
        machine={"Cores": "2"},
        options={"rows": 1000, "workers": 2, "rounds": 1, "seconds": 1},
        measurements=[measurement("service", 1, 9000), measurement("usual", 1, 1000)],
    )
    assert "9.0 (9.0-9.0)" in write_report(results, tmp_path)
    row = "| 64 | service | 9,000 | 1.0 | 2.0 | 3.0 | 0 | 80 | - | - | - | 9.0 (9.0-9.0) |"
    assert row in (tmp_path / "report.md").read_text()
    assert ">9,000</text>" in (tmp_path / "read.svg").read_text()


def test_without_wrk_the_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    result = CliRunner().invoke(main, ["--rounds", "1"])

    assert result.exit_code == 1
    assert "apt-get install wrk" in result.output


@pytest.mark.parametrize(("banner", "version"), [("wrk 4.2.0 [epoll]", "4.2.0"), ("", "unknown")])
def test_the_version_of_wrk_is_read(
    banner: str, version: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program = tmp_path / "wrk"
    program.write_text(f"#!/bin/sh\necho '{banner}'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))

    assert wrk.wrk_version() == version


@pytest.mark.soak
@pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed")
@pytest.mark.parametrize(
    ("options", "file"),
    [
        (
            "load --apps service,pgbench --scenarios create --connections 2 --workers 1"
            " --rounds 1 --seconds 1 --warmup 0 --rows 1000",
            "report.md",
        ),
        ("steps --quick --rows 1000 --only bare", "steps.md"),
    ],
    ids=["load", "steps"],
)
def test_a_small_run(options: str, file: str) -> None:
    # Not in tmp_path, which is closed to the user that the embedded PostgreSQL runs as.
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "benchmarks", *options.split(), "--out", folder]
        done = subprocess.run(
            command, cwd=ROOT, env=clean_environment(), capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr
        assert Path(folder, file).exists()
        # The data and the logs are removed.
        assert {path.suffix for path in Path(folder).iterdir()} <= {".json", ".md", ".svg"}
