"""`benchmarks claims`: verdicts follow from figures, and the command writes its report."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks.claims import command, database
from benchmarks.claims.claim import Claim, Quantity, Threshold, Verdict, at_least, at_most, ratio
from tests.support.commands import items
from tests.support.database import migrate


@pytest.mark.parametrize(
    ("threshold", "figure", "verdict"),
    [
        (at_least(2), 2.0, Verdict.HOLDS),
        (at_least(2), 1.9, Verdict.IN_PART),
        (at_least(2), 1.0, Verdict.FAILS),
        (at_most(1.05, in_part=1.2), 0.9, Verdict.HOLDS),
        (at_most(1.05, in_part=1.2), 1.2, Verdict.IN_PART),
        (at_most(1.05, in_part=1.2), 1.3, Verdict.FAILS),
    ],
)
def test_a_verdict_follows_from_the_figure(
    threshold: Threshold, figure: float, verdict: Verdict
) -> None:
    assert threshold.judge(figure) is verdict


def test_the_median_decides_and_ratios_are_taken_within_each_round() -> None:
    claim = Claim("", "", Quantity("", [1.0, 1.0, 2.2, 2.3, 2.4]), at_least(2))

    assert (claim.verdict, claim.is_close) == (Verdict.HOLDS, True)
    assert ratio({"a": [2.0, 30.0], "b": [1.0, 10.0]}, "a", "b").values == [2.0, 3.0]


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
