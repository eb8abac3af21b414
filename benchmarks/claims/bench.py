"""Measuring functions and coroutines side by side."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter, thread_time

from benchmarks.rounds import alternate
from service.settings import Settings

Variant = Callable[[], Awaitable[float]]
Loop = Callable[[int], Awaitable[None]]
Clock = Callable[[], float]
Samples = Mapping[str, Sequence[float]]


@dataclass(frozen=True, slots=True)
class Bench:
    """How to measure, and the database to measure on.

    Attributes:
        rounds: number of measurements of each variant.
        seconds: approximate duration of one measurement.
        settings: the service's, with the URL of a migrated database.
        ids: ids of the items in that database.
    """

    rounds: int
    seconds: float
    settings: Settings
    ids: Sequence[int]

    async def measure(self, variants: Mapping[str, Variant]) -> dict[str, list[float]]:
        """Measure the variants in alternating rounds; return their figures in that order."""
        for variant in variants.values():
            await variant()  # to compile, connect and fill caches
        figures: dict[str, list[float]] = {name: [] for name in variants}
        for name in alternate(list(variants), self.rounds):
            figures[name].append(await variants[name]())
        return figures

    def calls(self, function: Callable[[], object]) -> Variant:
        """Return a variant: the CPU seconds of one call of `function`."""

        async def loop(times: int) -> None:
            for _ in range(times):
                function()

        return self._repeat(loop, thread_time)

    def awaits(
        self, function: Callable[[], Awaitable[object]], clock: Clock = perf_counter
    ) -> Variant:
        """Return a variant: the seconds, by `clock`, of awaiting `function` once."""

        async def loop(times: int) -> None:
            for _ in range(times):
                await function()

        return self._repeat(loop, clock)

    def _repeat(self, loop: Loop, clock: Clock) -> Variant:
        """Return a variant that runs `loop` as often as fits into `seconds`."""
        times = 0

        async def elapsed(times: int) -> float:
            started = clock()
            await loop(times)
            return clock() - started

        async def measure() -> float:
            nonlocal times
            if not times:
                await elapsed(1)  # the first is slower than the others
                times = 1
                while (taken := await elapsed(times)) < self.seconds / 10:
                    times *= 2
                times = max(1, round(times * self.seconds / taken))
            return await elapsed(times) / times

        return measure
