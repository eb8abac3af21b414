"""The counters in memory: a window ends by itself, and its count is forgotten."""

import pytest
from service.access.counters import Hit, MemoryCounters, Window

from service.access import counters


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(counters, "monotonic", clock)
    return clock


async def test_a_window_begins_with_its_first_hit_and_ends_by_itself(clock: Clock) -> None:
    memory, short, long = MemoryCounters(), Window("short", 60), Window("long", 3600)
    assert await memory.hit([long, short]) == [Hit(1, 3600), Hit(1, 60)]
    clock.now += 59
    assert await memory.hit([short]) == [Hit(2, 1)]
    clock.now += 1
    assert await memory.hit([short, long]) == [Hit(1, 60), Hit(2, 3540)]


async def test_counts_of_ended_windows_are_removed(clock: Clock) -> None:
    memory = MemoryCounters()
    for key, seconds in {"kept": 60, "ended": 1}.items():
        await memory.hit([Window(key, seconds)])
    clock.now += counters.SWEEP_INTERVAL
    await memory.hit([Window("new", 60)])

    assert memory._counts.keys() == {"kept", "new"}
