"""Rounds of measurements that alternate, and what follows from them: medians, ratios, differences.

On a shared machine, the drift between two measurements that follow each other is larger than many
a difference between them. So every command measures all its subjects once a round, and compares
the values of one round only with each other.
"""

import math
from collections.abc import Iterator, Sequence
from statistics import median, quantiles
from typing import NamedTuple


class Spread(NamedTuple):
    """A median over the rounds, with a lower and an upper bound."""

    low: float
    median: float
    high: float

    def __str__(self) -> str:
        """Return a text such as `1.74 (1.72 to 1.77)`, or `-` if nothing was measured."""
        if math.isnan(self.median):
            return "-"
        return f"{short(self.median)} ({short(self.low)} to {short(self.high)})"


def alternate(names: Sequence[str], rounds: int) -> Iterator[str]:
    """Yield each name once a round; every second round runs in reverse order."""
    for number in range(rounds):
        yield from reversed(names) if number % 2 else names


def extremes(values: Sequence[float]) -> Spread:
    """Return the median, with the lowest and the highest value."""
    return Spread(min(values), median(values), max(values))


def quartiles(values: Sequence[float]) -> Spread:
    """Return the median, with the lower and the upper quartile."""
    if len(values) == 1:
        return extremes(values)
    return Spread(*quantiles(values, n=4, method="inclusive"))


def ratios(values: Sequence[float], base: Sequence[float]) -> list[float]:
    """Return `values` divided by `base`, round by round; NaN where the base is 0."""
    return [a / b if b else math.nan for a, b in zip(values, base, strict=True)]


def differences(values: Sequence[float], base: Sequence[float]) -> list[float]:
    """Return `values` minus `base`, round by round."""
    return [a - b for a, b in zip(values, base, strict=True)]


def short(value: float) -> str:
    """Return `value` with three significant digits, or `-` for NaN."""
    if math.isnan(value):
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 or value == 0 else f"{value:#.3g}"
