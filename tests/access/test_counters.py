"""The counters in memory: a window ends by itself, and its count is removed."""

import pytest

from service import counters
from service.counters import Hit, MemoryCounters, Window


async def test_a_window_ends_by_itself_and_is_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(counters, "monotonic", lambda: now)
    memory, short, long = MemoryCounters(), Window("short", 5), Window("long", 3600)
    assert await memory.hit([long, short]) == [Hit(1, 3600), Hit(1, 5)]
    now += 4
    assert await memory.hit([short]) == [Hit(2, 1)]
    now += 1
    assert await memory.hit([short, long]) == [Hit(1, 5), Hit(2, 3595)]
    now += counters.SWEEP_INTERVAL
    await memory.hit([long])

    assert memory._counts.keys() == {"long"}
