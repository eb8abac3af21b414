"""The benchmark of claims: its verdicts are right, and its command runs."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks.claims import claims
from benchmarks.claims.claim import Claim, Quantity, Threshold, Verdict, at_least, at_most, ratio


@pytest.mark.parametrize(
    ("threshold", "figure", "verdict"),
    [
        (at_least(2), 2.0, Verdict.HOLDS),
        (at_least(2), 1.9, Verdict.IN_PART),
        (at_least(2), 1.0, Verdict.FAILS),
        (at_least(50, in_part=25), 24.9, Verdict.FAILS),
        (at_most(1.05, in_part=1.2), 0.9, Verdict.HOLDS),
        (at_most(1.05, in_part=1.2), 1.2, Verdict.IN_PART),
        (at_most(1.05, in_part=1.2), 1.3, Verdict.FAILS),
    ],
)
def test_a_verdict_follows_from_the_figure(
    threshold: Threshold, figure: float, verdict: Verdict
) -> None:
    assert threshold.judge(figure) is verdict


def test_the_median_decides_and_disagreeing_rounds_show() -> None:
    agreed = Claim("", "", Quantity("", [2.1, 2.2, 2.3, 2.4, 0.1]), at_least(2))
    assert (agreed.verdict, agreed.is_close) == (Verdict.HOLDS, False)
    torn = Claim("", "", Quantity("", [1.0, 1.0, 2.2, 2.3, 2.4]), at_least(2))
    assert (torn.verdict, torn.is_close) == (Verdict.HOLDS, True)


def test_a_ratio_is_taken_within_each_round() -> None:
    assert ratio({"a": [2.0, 30.0], "b": [1.0, 10.0]}, "a", "b").values == [2.0, 3.0]


def test_the_command_measures_and_writes_its_report(server_url: str, tmp_path: Path) -> None:
    topics = ["--only", "memory", "--only", "pool"]
    done = CliRunner().invoke(
        claims, ["--quick", *topics, "--database", server_url, "--out", str(tmp_path)]
    )
    assert done.exit_code == 0, done.output

    report = json.loads((tmp_path / "claims.json").read_text())
    assert len(report["claims"]) == 4
    assert {claim["verdict"] for claim in report["claims"]} <= set(Verdict)
    assert report["machine"]
    markdown = (tmp_path / "claims.md").read_text()
    assert all(claim["claim"] in markdown for claim in report["claims"])
    assert (tmp_path / "claims.pyperf.json").exists()
