"""The claims of claims.md, and the verdict that follows from a measurement."""

from dataclasses import dataclass
from operator import ge, le
from pathlib import Path

from benchmarks.claims.bench import Samples
from benchmarks.rounds import Spread, differences, quartiles, ratios

TABLE = Path(__file__).with_name("claims.md")


@dataclass(frozen=True, slots=True)
class Claim:
    """A row of claims.md.

    Attributes:
        topic: the measurement that decides.
        figure: the figure of that measurement: `a / b` is a ratio of two variants; `a - b`, or `a`
            alone, is in milliseconds.
        holds: the limit of the median for the claim to hold, such as `>= 2`.
        in_part: the limit for it to hold in part.
    """

    topic: str
    text: str
    often_said: str
    figure: str
    holds: str
    in_part: str

    def measured(self, samples: Samples) -> Spread:
        """Return the figure: the median over the rounds, with the quartiles."""
        one, operator, other = self.figure.partition(" / ")
        if operator:
            return quartiles(ratios(samples[one], samples[other]))
        one, operator, other = self.figure.partition(" - ")
        seconds = differences(samples[one], samples[other]) if operator else samples[one]
        return quartiles([value * 1000 for value in seconds])

    def verdict(self, median: float) -> str:
        """Return what a median says of the claim."""
        for limit, verdict in ((self.holds, "holds"), (self.in_part, "holds in part")):
            operator, bound = limit.split()
            if {">=": ge, "<=": le}[operator](median, float(bound)):
                return verdict
        return "does not hold"


def read_claims() -> list[Claim]:
    """Return the rows of claims.md."""
    lines = [line for line in TABLE.read_text().splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
    return [Claim(*cells) for cells in rows]
