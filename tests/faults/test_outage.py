"""PostgreSQL that is stopped for a while, or not yet started."""

import asyncio
from collections.abc import Iterator

import httpx2 as httpx
import pytest

from tests.support.postgres import Mode, Postgres
from tests.support.probes import check_unavailable, fill, seconds_until_well, serving, workers
from tests.support.processes import Server
from tests.support.waiting import TIMEOUT, wait_until

pytestmark = pytest.mark.faults


@pytest.fixture(scope="module")
def server(postgres: Postgres) -> Iterator[Server]:
    """The service with a deadline that no request reaches by waiting for the database."""
    fill(postgres.url)
    with serving(postgres.url, REQUEST_TIMEOUT=str(TIMEOUT)) as server:
        yield server


@pytest.mark.parametrize("waves", [5, pytest.param(500, marks=pytest.mark.soak)])
@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_requests_get_503_at_once_during_an_outage_and_succeed_after_it(
    postgres: Postgres, server: Server, mode: Mode, waves: int
) -> None:
    async def ask_during_an_outage() -> None:
        async with httpx.AsyncClient(base_url=server.url, timeout=TIMEOUT) as client:
            await seconds_until_well(client)
            postgres.stop(mode)
            outcomes = [o for _ in range(waves) for o in await check_unavailable(client)]
            postgres.start()
            seconds = await seconds_until_well(client)
        slowest = max(outcome.seconds for outcome in outcomes)
        print(f"{len(outcomes)} requests, the slowest {slowest:.3f} s; well after {seconds:.3f} s")
        assert not any("timed-out" in outcome.text for outcome in outcomes)

    before = workers(server)
    asyncio.run(ask_during_an_outage())
    assert workers(server) == before
    assert not server.events("unhandled_error")


def test_the_service_starts_without_a_database_and_is_ready_when_it_returns(
    postgres: Postgres,
) -> None:
    postgres.stop()
    with (
        serving(postgres.url) as server,
        httpx.Client(base_url=server.url, timeout=TIMEOUT) as client,
    ):
        assert client.get("/health/live").status_code == 200
        assert client.get("/health/ready").status_code == 503
        assert client.get("/items/1").status_code == 503

        postgres.start()
        wait_until(lambda: client.get("/health/ready").status_code == 200)
        assert client.get("/items/1").status_code == 200
