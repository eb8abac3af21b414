"""`benchmarks claims`: verdicts follow from figures, and the command writes its report."""

import json
from pathlib import Path

import pytest

from benchmarks import database
from benchmarks.__main__ import main
from benchmarks.claims import TOPICS
from benchmarks.claims.claim import Claim, read_claims
from tests.support.commands import items
from tests.support.database import migrate


def test_the_median_ratio_of_the_rounds_gives_the_verdict() -> None:
    claim = Claim("", "", "", "a / b", holds=">= 3", in_part=">= 1.1")
    measured = claim.measured({"a": [2.0, 30.0, 4.0], "b": [2.0, 10.0, 2.0]})

    assert str(measured) == "2.00 (1.50 to 2.50)"
    assert [claim.verdict(value) for value in (3, measured.median, 1)] == [
        "holds",
        "holds in part",
        "does not hold",
    ]


def test_each_claim_has_a_topic() -> None:
    assert {claim.topic for claim in read_claims()} == TOPICS.keys()


def run_in_this_process(url: str, folder: Path, program: str, *arguments: str) -> None:
    if program == "alembic":
        migrate(url)
    else:
        assert items(*arguments, env={"DATABASE_URL": url}).exit_code == 0


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_command_measures_every_claim(
    server_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "run_tool", run_in_this_process)
    options = ["--rounds=2", "--seconds=0.001", "--database", server_url, "--out", str(tmp_path)]
    main(["claims", "--only", "config", "engines", *options])

    assert json.loads((tmp_path / "claims.json").read_text()).keys() == {"config", "engines"}
    report = (tmp_path / "claims.md").read_text()
    for claim in read_claims():
        assert (claim.text in report) == (claim.topic in ("config", "engines"))
