"""A claim, what was measured about it, and the verdict that follows from the two."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import quantiles
from typing import Literal

from pyperf import Benchmark, Run

Samples = Mapping[str, Sequence[float]]


class Verdict(StrEnum):
    """What the measurement says of a claim."""

    HOLDS = "holds"
    IN_PART = "holds in part"
    FAILS = "does not hold"


@dataclass(frozen=True, slots=True)
class Threshold:
    """How large (`at_least`) or how small a figure must be for its claim to hold, or to in part."""

    holds: float
    in_part: float
    at_least: bool

    def judge(self, value: float) -> Verdict:
        """The verdict on one figure."""
        sign = 1 if self.at_least else -1
        if sign * value >= sign * self.holds:
            return Verdict.HOLDS
        return Verdict.IN_PART if sign * value >= sign * self.in_part else Verdict.FAILS

    def __str__(self) -> str:
        relation = "≥" if self.at_least else "≤"
        return f"{relation} {self.holds:g}, in part {relation} {self.in_part:g}"


def at_least(holds: float, in_part: float = 1.1) -> Threshold:
    """For what is said to be large. 1.1: a ratio clear of this kind of machine's noise."""
    return Threshold(holds, in_part, at_least=True)


def at_most(holds: float, in_part: float) -> Threshold:
    """For what is said to be small."""
    return Threshold(holds, in_part, at_least=False)


@dataclass(frozen=True, slots=True)
class Quantity:
    """The figure that a claim is about: its name, and its value in each round."""

    name: str
    values: Sequence[float]
    unit: Literal["x", " ms"] = "x"

    @property
    def quartiles(self) -> tuple[float, float, float]:
        """The lower quartile, the median and the upper quartile over the rounds."""
        low, median, high = quantiles(self.values, n=4, method="inclusive")
        return low, median, high

    def __str__(self) -> str:
        low, median, high = (f"{value:.3g}" for value in self.quartiles)
        return f"{median}{self.unit} ({low} to {high})"


def ratio(samples: Samples, one: str, other: str) -> Quantity:
    """How many times the `other` variant's figure the `one` variant's is, round by round."""
    pairs = zip(samples[one], samples[other], strict=True)
    return Quantity(f"{one} / {other}", [a / b for a, b in pairs])


def difference_ms(samples: Samples, one: str, other: str) -> Quantity:
    """By how many milliseconds the `one` variant takes longer, round by round."""
    pairs = zip(samples[one], samples[other], strict=True)
    return Quantity(f"{one} - {other}", [(a - b) * 1000 for a, b in pairs], " ms")


def milliseconds(samples: Samples, name: str) -> Quantity:
    """A variant's seconds, as milliseconds."""
    return Quantity(name, [seconds * 1000 for seconds in samples[name]], " ms")


@dataclass(frozen=True, slots=True)
class Claim:
    """What is often said, the figure it is said with, and ours."""

    text: str
    often_said: str
    measured: Quantity
    threshold: Threshold

    @property
    def verdict(self) -> Verdict:
        """That of the median."""
        return self.threshold.judge(self.measured.quartiles[1])

    @property
    def is_close(self) -> bool:
        """Whether the middle half of the rounds does not agree on the verdict."""
        low, _, high = self.measured.quartiles
        return self.threshold.judge(low) != self.threshold.judge(high)


@dataclass(frozen=True, slots=True)
class Result:
    """What one topic's function measured, and what that says of its claims."""

    samples: Samples
    claims: Sequence[Claim]
    unit: Literal["second", "byte"] = "second"

    def benchmarks(self, topic: str) -> list[Benchmark]:
        """The samples as pyperf knows them, with their median, their spread and their format."""
        return [
            Benchmark([_run(value, f"{topic}: {name}", self.unit) for value in values])
            for name, values in self.samples.items()
        ]


def _run(value: float, name: str, unit: str) -> Run:
    return Run([value], metadata={"name": name, "unit": unit}, collect_metadata=False)
