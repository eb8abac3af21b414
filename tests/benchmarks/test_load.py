"""`benchmarks load`: peers respond as the service does, and figures become a report."""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest

from benchmarks import generators, load
from benchmarks.chart import chart
from benchmarks.comparison import Comparison, Load, Options
from benchmarks.peers import threads, usual
from benchmarks.rounds import differences, extremes
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
        # The format of times may differ.
        assert (await client.get(f"/items/{item['id']}")).json().keys() == item.keys()
        theirs, ours = [(await each.get("/items?page=1")).json() for each in (peer, client)]
        assert (theirs["items"], theirs["total"]) == ([item], 1)
        assert theirs.keys() <= ours.keys()
        assert (await peer.get("/items/999")).status_code == 404
        assert (await peer.post("/items", json={"name": ""})).status_code == 422


def test_the_output_of_the_load_generators_is_parsed() -> None:
    of_wrk = generators.parse_wrk(
        "Running 2s test @ http://127.0.0.1:8000\n  2 threads and 64 connections\n"
        '{"requests":110,"seconds":2.000000,"p50":1.500,"p95":3.000,"p99":4.250,'
        '"refused":10,"broken":3}\n'
    )
    assert (of_wrk["requests"], of_wrk["requests/s"], of_wrk["errors"]) == (100, 50, 13)
    assert (of_wrk["p50 ms"], of_wrk["p95 ms"], of_wrk["p99 ms"]) == (1.5, 3, 4.25)
    of_pgbench = generators.parse_pgbench(
        "number of transactions actually processed: 12650\n"
        "number of failed transactions: 2 (0.016%)\n"
        "tps = 6325.000000 (without initial connection time)\n"
    )
    assert of_pgbench == {"requests": 12650, "requests/s": 6325, "errors": 2}


def test_the_report_has_ratios_of_each_round(tmp_path: Path) -> None:
    rates = {"service": [9000, 8000, 5000], "usual": [1000, 1000, 500]}
    samples = {
        app: [{"requests/s": rate, "p99 ms": 3.0, "errors": 0} for rate in of_app]
        for app, of_app in rates.items()
    }
    options = Options(None, tmp_path, 1000, 2, ["read"], [64], rounds=3, seconds=1)
    comparison = Comparison(options, {"Cores": "2"}, {Load("read", 64): samples})
    lines = [" ".join(line.split()) for line in load.report(comparison).splitlines()]

    row = "| 64 | service | 8,000 | - | - | 3.00 | 0 | - | - | - | 9.00 (8.00 to 10.0)"
    assert f"{row} | 1.00 (1.00 to 1.00) |" in lines
    row = "| GET /items/{id} | 8,000 | 9.00 (8.00 to 10.0) | 3.00 | 1.00 (1.00 to 1.00) | - | - |"
    assert row in lines
    assert ">8,000</text>" in chart(comparison, "read")


def test_a_difference_is_taken_within_each_round() -> None:
    spread = extremes(differences([89, 84, 120], [80, 80, 90]))

    assert str(spread) == "9.00 (4.00 to 30.0)"


def test_without_wrk_the_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(SystemExit, match="apt-get install wrk"):
        generators.wrk_version()


@pytest.mark.parametrize(("banner", "version"), [("wrk 4.2.0 [epoll]", "4.2.0"), ("", "unknown")])
def test_the_version_of_wrk_is_read(
    banner: str, version: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program = tmp_path / "wrk"
    program.write_text(f"#!/bin/sh\necho '{banner}'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))

    assert generators.wrk_version() == version


@pytest.mark.soak
@pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed")
@pytest.mark.parametrize(
    "options",
    [
        "load --only service pgbench --scenarios create --connections 2 --workers 1",
        "steps --only bare",
    ],
)
def test_a_small_run(options: str) -> None:
    # Not in tmp_path, which the user of the embedded PostgreSQL cannot read.
    with tempfile.TemporaryDirectory() as folder:
        arguments = [*options.split(), "--rounds=1", "--seconds=1", "--rows=1000", "--out", folder]
        command = [sys.executable, "-m", "benchmarks", *arguments]
        done = subprocess.run(
            command, cwd=ROOT, env=clean_environment(), capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr
        # The data and the logs are removed.
        assert {path.suffix for path in Path(folder).iterdir()} <= {".json", ".md", ".svg"}
