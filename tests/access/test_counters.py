"""Counters in memory: windows begin and end, and what is over is forgotten."""

import pytest

from service import counters
from service.counters import Hit, MemoryCounters, Window


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(counters, "monotonic", clock)
    return clock


async def test_a_window_begins_with_its_first_hit_and_ends_by_itself(clock: Clock) -> None:
    memory, window = MemoryCounters(), Window("a", 60)
    assert await memory.hit([window]) == [Hit(1, 60)]
    clock.now += 59
    assert await memory.hit([window]) == [Hit(2, 1)]
    clock.now += 1
    assert await memory.hit([window]) == [Hit(1, 60)]


async def test_windows_are_apart_and_answered_in_their_order(clock: Clock) -> None:
    memory, short, long = MemoryCounters(), Window("short", 1), Window("long", 60)
    await memory.hit([long])
    assert await memory.hit([short, long]) == [Hit(1, 1), Hit(2, 60)]


async def test_counters_that_are_over_are_forgotten(clock: Clock) -> None:
    memory = MemoryCounters()
    await memory.hit([Window("kept", 60)])
    for number in range(1000):
        await memory.hit([Window(f"client {number}", 1)])
    clock.now += counters.SWEEP_INTERVAL
    await memory.hit([Window("new", 60)])
    assert memory._counts.keys() == {"kept", "new"}
    assert (await memory.hit([Window("kept", 60)]))[0].count == 2
