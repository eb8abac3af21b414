"""Results as lines on a terminal, as Markdown, as JSON and as pyperf's own file."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyperf import BenchmarkSuite

from benchmarks.claims.claim import Claim, Result

LINE = "{:18}{:32}{:23}{}"
TITLE = "# What is often said, measured"
NOTES = """\
A figure is the median of {rounds} rounds of about {seconds:g} s, longer under load, with its
quartiles. The rounds alternate between the things compared, and a ratio is taken within a round.
What only computes is measured in CPU time, what waits in time that passed. The verdict is computed:
a claim holds if the median passes the first limit under "asked", which is the lower end of what is
said, and in part if it passes the second. A tilde marks a verdict on which the middle half of the
rounds does not agree.
`claims.pyperf.json` has the value of each round, for `pyperf stats` and `pyperf compare_to`."""


@dataclass(frozen=True, slots=True)
class Report:
    """All that a run found out, by topic, and how it went about it."""

    results: dict[str, Result]
    methods: dict[str, str]
    rounds: int
    seconds: float
    machine: dict[str, str]

    def write(self, folder: Path) -> None:
        """Write all forms of it, over those of the run before."""
        (folder / "claims.md").write_text("\n".join(self._markdown()) + "\n")
        (folder / "claims.json").write_text(json.dumps(self._json(), indent=1) + "\n")
        self._pyperf().dump(str(folder / "claims.pyperf.json"), replace=True)

    def terminal_lines(self) -> Iterator[str]:
        """A table; what a claim says stands last, as it is the longest."""
        yield LINE.format("verdict", "measured here", "often said", "claim")
        for claim in self._claims():
            yield LINE.format(_verdict(claim), str(claim.measured), claim.often_said, claim.text)

    def _claims(self) -> Iterator[Claim]:
        for result in self.results.values():
            yield from result.claims

    def _markdown(self) -> Iterator[str]:
        yield from (TITLE, "")
        yield "| claim | often said | here | of | asked | verdict |"
        yield "|---|---|---|---|---|---|"
        for claim in self._claims():
            yield (
                f"| {claim.text} | {claim.often_said} | {claim.measured}"
                f" | {claim.measured.name} | {claim.threshold} | {_verdict(claim)} |"
            )
        yield from ("", "## How it was measured", "")
        yield from (NOTES.format(rounds=self.rounds, seconds=self.seconds), "")
        for name, result in self.results.items():
            yield f"- **{name}**: {self.methods[name]} *{_medians(result)}.*"
        yield from ("", "## Where", "", "| | |", "|---|---|")
        yield from (f"| {name} | {value} |" for name, value in self.machine.items())

    def _json(self) -> dict[str, Any]:
        return {
            "machine": self.machine,
            "rounds": self.rounds,
            "seconds": self.seconds,
            "claims": [_claim_json(claim) for claim in self._claims()],
        }

    def _pyperf(self) -> BenchmarkSuite:
        return BenchmarkSuite(
            [
                benchmark
                for name, result in self.results.items()
                for benchmark in result.benchmarks(name)
            ]
        )


def _verdict(claim: Claim) -> str:
    return f"~ {claim.verdict}" if claim.is_close else str(claim.verdict)


def _medians(result: Result) -> str:
    """The variants' medians, each with the median of its rounds' distances to it."""
    figures = []
    for name, benchmark in zip(result.samples, result.benchmarks(""), strict=True):
        median, spread = benchmark.format_values((benchmark.median(), benchmark.median_abs_dev()))
        figures.append(f"{name}: {median} ± {spread}")
    return "; ".join(figures)


def _claim_json(claim: Claim) -> dict[str, Any]:
    low, median, high = claim.measured.quartiles
    return {
        "claim": claim.text,
        "often_said": claim.often_said,
        "of": claim.measured.name,
        "unit": claim.measured.unit.strip(),
        "median": median,
        "quartiles": [low, high],
        "asked": str(claim.threshold),
        "verdict": claim.verdict,
        "is_close": claim.is_close,
    }
