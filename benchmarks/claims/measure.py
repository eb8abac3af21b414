"""Measuring variants side by side.

The rounds alternate, each in the other order than the one before: on a shared machine the drift
between two measurements taken one after the other is larger than many a difference looked for.
pyperf's runner and pytest-benchmark finish one variant before they begin the next, and the latter
knows no coroutines. So the loop is here, and of pyperf come the statistics and the file format.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter, thread_time
from typing import TypeVar

from benchmarks.claims.claim import Result
from service.settings import Settings

Figure = TypeVar("Figure")
Variant = Callable[[], Awaitable[Figure]]
Loop = Callable[[int], Awaitable[None]]
Clock = Callable[[], float]
Topic = Callable[["Bench"], Awaitable[Result]]


@dataclass(frozen=True, slots=True)
class Bench:
    """How long to measure, on which database, and whom to tell of progress.

    Attributes:
        rounds: Times that each variant is measured, after one more that does not count.
        seconds: How long one measurement lasts, about.
        settings: The service's, with the address of a migrated database.
        ids: Of the items that the database holds for the benchmark.
        tick: Called after each round.
    """

    rounds: int
    seconds: float
    settings: Settings
    ids: Sequence[int]
    tick: Callable[[], None]

    async def alternate(self, variants: Mapping[str, Variant[Figure]]) -> dict[str, list[Figure]]:
        """Measure all variants once a round. Answers with the figures of each, in round order."""
        figures: dict[str, list[Figure]] = {name: [] for name in variants}
        names = list(variants)
        for round_ in range(self.rounds + 1):
            for name in names if round_ % 2 else reversed(names):
                figure = await variants[name]()
                if round_ > 0:  # the first warms up: it compiles, connects, fills caches
                    figures[name].append(figure)
            self.tick()
        return figures

    def calls(self, function: Callable[[], object]) -> Variant[float]:
        """Measures the CPU seconds that a call of `function` takes; it must not wait."""

        async def loop(times: int) -> None:
            for _ in range(times):
                function()

        return self._repeat(loop, thread_time)  # what neighbours on the core take does not count

    def awaits(
        self, function: Callable[[], Awaitable[object]], clock: Clock = perf_counter
    ) -> Variant[float]:
        """Measures the seconds, by `clock`, that a call of `function` takes when awaited."""

        async def loop(times: int) -> None:
            for _ in range(times):
                await function()

        return self._repeat(loop, clock)

    def _repeat(self, loop: Loop, clock: Clock) -> Variant[float]:
        times = 0

        async def elapsed(times: int) -> float:
            started = clock()
            await loop(times)
            return clock() - started

        async def measure() -> float:
            nonlocal times
            times = times or await self._fill(elapsed)
            return await elapsed(times) / times

        return measure

    async def _fill(self, elapsed: Callable[[int], Awaitable[float]]) -> int:
        """How many times take `seconds`."""
        await elapsed(1)  # the first is slower than all that follow
        times = 1
        while (taken := await elapsed(times)) < self.seconds / 10:
            times *= 2
        return max(1, round(times * self.seconds / taken))
