"""Hostile values in well-formed requests: each gets a status that its operation declares."""

import asyncio
import time
from collections.abc import Callable
from itertools import islice
from random import Random

import pytest

from tests.support.attacks import ATTACKS, Attack, first_of_each_kind, generated
from tests.support.commands import TRACING
from tests.support.hostile import (
    MEGABYTE,
    descriptors,
    harmed_by_nothing,
    memory,
    send_all,
    serving,
)
from tests.support.processes import Server, query
from tests.support.waiting import wait_until

pytestmark = pytest.mark.faults

BACKENDS = (
    "SELECT count(*) FROM pg_stat_activity"
    " WHERE datname = current_database() AND application_name = 'items-service'"
)


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize(
    "select", [first_of_each_kind, pytest.param(iter, id="all", marks=pytest.mark.soak)]
)
async def test_a_hostile_value_gets_a_declared_answer(
    server: Server, attack: Callable[[], Attack], select: Callable[[Attack], Attack]
) -> None:
    begun = time.monotonic()
    number = await send_all(server, (request for _, request in select(attack())))

    print(f"{number} requests in {time.monotonic() - begun:.1f} s")
    assert number > 300


@pytest.mark.parametrize("number", [500, pytest.param(50_000, marks=pytest.mark.soak)])
async def test_several_hostile_values_at_once_get_a_declared_answer(
    server: Server, number: int
) -> None:
    random = Random(1)  # the same requests in each run

    await send_all(server, (generated(random) for _ in range(number)))


def test_hostile_requests_leave_nothing_behind(
    hostile_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in TRACING:
        monkeypatch.delenv(name, raising=False)
    requests = [
        request
        for attack in ATTACKS
        for _, request in islice(first_of_each_kind(attack()), 0, None, 5)
    ]

    with serving(hostile_url) as server, harmed_by_nothing(server):

        def attack() -> int:
            """Send all requests; return the memory of the workers, in bytes."""
            asyncio.run(send_all(server, requests))
            return sum(memory(server))

        def open_files() -> int:
            """Count them without the connections to the database."""
            ((backends,),) = query(hostile_url, BACKENDS)
            return sum(descriptors(server)) - int(backends)

        sizes, files = [attack()], open_files()
        # A leak adds to every round, whereas an allocator takes more memory now and then.
        while len(sizes) < 10:
            sizes.append(attack())
            if sizes[-1] - sizes[-2] < MEGABYTE:
                break
        wait_until(lambda: open_files() <= files + 8)  # a worker may have opened a few late

    print(f"the memory after each {len(requests)} requests: {sizes}")
    assert sizes[-1] - sizes[-2] < MEGABYTE
