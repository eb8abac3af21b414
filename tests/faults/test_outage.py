"""PostgreSQL away for a while: told at once, survived, and over as soon as it is back."""

import asyncio
import time
from collections.abc import Iterator

import httpx2 as httpx
import pytest

from tests.support.postgres import Mode, Postgres, new_postgres
from tests.support.probes import (
    ask_all,
    fill,
    seconds_until_well,
    serving,
    watching_liveness,
    workers,
)
from tests.support.processes import Server

pytestmark = pytest.mark.faults

AT_ONCE = 1.0  # seconds within which a request is told that the database is away
SOON = 2.0  # seconds after its return within which all is well again


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    with new_postgres() as postgres:
        fill(postgres.url)
        yield postgres


@pytest.mark.parametrize(
    ("mode", "seconds"),
    [
        ("fast", 4),
        ("immediate", 4),
        pytest.param("fast", 20, marks=pytest.mark.soak),
        pytest.param("immediate", 20, marks=pytest.mark.soak),
    ],
)
def test_an_outage_is_told_at_once_and_is_over_with_its_cause(
    postgres: Postgres, mode: Mode, seconds: float
) -> None:
    async def go_through_it(server: Server) -> tuple[int, float, float]:
        asked, longest = 0, 0.0
        async with httpx.AsyncClient(base_url=server.url, timeout=30) as client:
            await seconds_until_well(client)
            await asyncio.to_thread(postgres.stop, mode)
            over = time.monotonic() + seconds
            while time.monotonic() < over:
                for outcome in await ask_all(client):
                    assert (outcome.kind, outcome.status) == (outcome.kind, 503)
                    assert int(outcome.headers["retry-after"]) > 0
                    longest = max(longest, outcome.seconds)
                    asked += 1
                await asyncio.sleep(0.05)  # it is not to be an overload, too
            await asyncio.to_thread(postgres.start)
            return asked, longest, await seconds_until_well(client)

    with serving(postgres.url) as server, watching_liveness(server.url) as liveness:
        before = workers(server)
        asked, longest, until_well = asyncio.run(go_through_it(server))
        assert workers(server) == before
        assert not server.events("unhandled_error")

    print(f"{asked} requests were told so, the slowest after {longest:.3f} s")
    print(f"well {until_well:.3f} s after its return")
    liveness.check()
    assert longest < AT_ONCE
    assert until_well < SOON


def test_it_starts_without_a_database_and_is_ready_when_that_comes(postgres: Postgres) -> None:
    postgres.stop()
    with serving(postgres.url) as server, httpx.Client(base_url=server.url) as client:
        assert client.get("/health/live").status_code == 200
        assert client.get("/health/ready").status_code == 503
        assert client.get("/items/1").status_code == 503

        postgres.start()
        begun = time.monotonic()
        while client.get("/health/ready").status_code != 200:
            assert time.monotonic() - begun < SOON

        assert client.get("/items/1").status_code == 200
