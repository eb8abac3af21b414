"""The figures of the tables: medians, and differences that are made within each round."""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import replace

from benchmarks.results import Measurement, Spread, ratio, spread


def merged(measured: Sequence[Measurement]) -> list[Measurement]:
    """One measurement a round, in place of several: their medians."""
    by_round: dict[int, list[Measurement]] = {}
    for m in measured:
        by_round.setdefault(m.round, []).append(m)
    return [
        replace(
            turns[0],
            rate=statistics.median(turn.rate for turn in turns),
            errors=sum(turn.errors for turn in turns),
            p99=_middle(turn.p99 for turn in turns),
            app_cpu=_middle(turn.app_cpu for turn in turns),
        )
        for turns in by_round.values()
    ]


def _middle(values: Iterable[float | None]) -> float | None:
    known = spread(values)
    return known.median if known else None


def median(measured: Sequence[Measurement], member: str, decimals: int) -> str:
    """The rounds' median of one member."""
    values = spread(getattr(m, member) for m in measured)
    return f"{values.median:,.{decimals}f}" if values else "-"


def cpu_difference(measured: list[Measurement], base: list[Measurement]) -> str:
    """Microseconds of CPU time a request beyond what `base` takes."""
    by_round = {m.round: m.app_cpu for m in base}
    return _signed(
        spread(
            m.app_cpu - before
            for m in measured
            if m.app_cpu is not None and (before := by_round.get(m.round)) is not None
        )
    )


def percent_of(measured: list[Measurement], base: list[Measurement], member: str) -> str:
    """How many percent of what `base` has in one member."""
    ratios = ratio(measured, base, member)
    return f"{ratios.median * 100:.0f}" if ratios else "-"


def percent_more(measured: list[Measurement], base: list[Measurement], member: str) -> str:
    """By how many percent one member exceeds that of `base`."""
    ratios = ratio(measured, base, member)
    if ratios is None:
        return "-"
    return _signed(
        Spread(*((value - 1) * 100 for value in (ratios.median, ratios.least, ratios.most)))
    )


def _signed(values: Spread | None) -> str:
    """As +3.1 (+2.8 to +3.3); a tilde stands before what not all rounds agree on the sign of."""
    if values is None:
        return "-"
    doubt = "~ " if values.least <= 0 <= values.most else ""
    return f"{doubt}{values.median:+.1f} ({values.least:+.1f} to {values.most:+.1f})"
