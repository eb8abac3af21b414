"""`benchmarks claims`: verdicts follow from figures, and the command writes its report."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks.claims import command, database
from benchmarks.claims.claim import Claim, Verdict, at_least, at_most, ratio
from tests.support.commands import items
from tests.support.database import migrate


def test_the_median_ratio_of_the_rounds_gives_the_verdict() -> None:
    quantity = ratio({"a": [2.0, 30.0, 4.0], "b": [2.0, 10.0, 2.0]}, "a", "b")

    assert quantity.values == [1.0, 3.0, 2.0]
    assert Claim("", "", quantity, at_least(2)).verdict is Verdict.HOLDS
    assert Claim("", "", quantity, at_least(3)).verdict is Verdict.IN_PART
    assert Claim("", "", quantity, at_most(1.05, in_part=1.2)).verdict is Verdict.FAILS


def run_in_this_process(url: str, folder: Path, program: str, *arguments: str) -> None:
    if program == "alembic":
        migrate(url)
    else:
        assert items(*arguments, env={"DATABASE_URL": url}).exit_code == 0


def test_the_command_writes_its_report(
    server_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "QUICK", (2, 0.001))
    monkeypatch.setattr(database, "run_tool", run_in_this_process)
    options = ["--quick", "--only", "extra", "--only", "pool", "--database", server_url]
    done = CliRunner().invoke(command.claims, [*options, "--out", str(tmp_path)])
    assert done.exit_code == 0, done.output

    report = json.loads((tmp_path / "claims.json").read_text())
    markdown = (tmp_path / "claims.md").read_text()
    assert report["claims"]
    assert {claim["verdict"] for claim in report["claims"]} <= set(Verdict)
    assert all(claim["claim"] in markdown for claim in report["claims"])
    assert (tmp_path / "claims.pyperf.json").exists()
