"""Redis unavailable or slow: requests pass uncounted, and limits hold again when it is back."""

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Iterator

import httpx2 as httpx
import pytest
from pydantic import SecretStr
from structlog.testing import capture_logs

from service.access import counters
from service.settings import Settings
from tests.support.redis import Redis, new_redis, patience
from tests.support.waiting import TIMEOUT

pytestmark = pytest.mark.faults

LIMIT = 5  # writes a day; reads have no limit
BURST = 50
FAULTS: dict[str, Callable[[Redis], None]] = {
    "stopped": Redis.stop,
    "silent": Redis.fall_silent,
    "read-only": Redis.refuse_writes,
}


@pytest.fixture(scope="module")
def started_redis() -> Iterator[Redis]:
    with new_redis() as redis:
        yield redis


@pytest.fixture
def redis(started_redis: Redis) -> Redis:
    """Redis without counts and without a fault."""
    started_redis.reset()
    return started_redis


@pytest.fixture
def settings(settings: Settings, redis: Redis) -> Settings:
    settings.rate_limit_write = f"{LIMIT}/day"
    settings.redis_url = SecretStr(redis.proxy_url)
    return settings


def write(client: httpx.AsyncClient) -> Awaitable[httpx.Response]:
    """Send a write that the limit counts, and that the database never sees: it gets 422 or 429."""
    return client.delete("/items/lamp")


async def write_until_limited(client: httpx.AsyncClient) -> list[httpx.Response]:
    """Write until the limit refuses it; return the answers to the writes that passed."""
    passed = []
    async with asyncio.timeout(TIMEOUT):
        while (answer := await write(client)).status_code != 429:
            passed.append(answer)
            await asyncio.sleep(0.005)
    assert is_counted(answer)
    return passed


def is_counted(answer: httpx.Response) -> bool:
    return "ratelimit" in answer.headers


async def failures(client: httpx.AsyncClient) -> float:
    """Return the metric of requests that passed uncounted."""
    metrics = (await client.get("/metrics")).text
    found = re.search(r"^rate_limit_failures_total (\S+)$", metrics, re.MULTILINE)
    assert found
    return float(found[1])


@pytest.mark.parametrize("fault", FAULTS)
async def test_requests_pass_uncounted_while_redis_is_unavailable(
    redis: Redis, client: httpx.AsyncClient, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with patience():
        await write_until_limited(client)
    before = await failures(client)
    await asyncio.to_thread(FAULTS[fault], redis)
    monkeypatch.setattr(counters, "REDIS_PAUSE", TIMEOUT)

    with capture_logs() as lines:
        answers = await asyncio.gather(*(write(client) for _ in range(BURST)))
        attempts = redis.attempts
        for _ in range(100):
            answers.append(await write(client))
            assert (await client.get("/health/live")).status_code == 200

    assert {answer.status_code for answer in answers} == {422}
    assert not any(map(is_counted, answers))
    assert await failures(client) - before == len(answers)
    assert redis.attempts == attempts  # no request asks Redis during the pause
    assert [line["event"] for line in lines] == ["rate_limits_off"]
    assert lines[0]["log_level"] == "warning"


@pytest.mark.parametrize("fault", FAULTS)
async def test_limits_hold_again_when_redis_is_back(
    redis: Redis, client: httpx.AsyncClient, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(counters, "REDIS_PAUSE", 0.1)
    with patience():
        assert len(await write_until_limited(client)) == LIMIT
    await asyncio.to_thread(FAULTS[fault], redis)
    assert not is_counted(await write(client))

    await asyncio.to_thread(redis.recover)
    begun = time.monotonic()
    with patience():
        passed = await write_until_limited(client)

    print(f"the limit holds again after {time.monotonic() - begun:.2f} s")
    # Stopped, Redis has lost its counts.
    assert sum(map(is_counted, passed)) == (LIMIT if fault == "stopped" else 0)


@pytest.mark.parametrize(
    ("delay", "handshake"),
    [
        pytest.param(0.02, 0.05, id="connections come late"),
        pytest.param(0.05, 0.0, id="answers come late"),
    ],
)
@pytest.mark.parametrize("bursts", [4, pytest.param(200, marks=pytest.mark.soak)])
async def test_a_request_that_a_slow_redis_does_not_count_passes(
    redis: Redis,
    client: httpx.AsyncClient,
    delay: float,
    handshake: float,
    bursts: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(counters, "REDIS_TIMEOUT", 0.15)
    monkeypatch.setattr(counters, "REDIS_PAUSE", 0.1)
    before = await failures(client)
    redis.delay, redis.handshake = delay, handshake
    answers = []
    for _ in range(bursts):
        answers += await asyncio.gather(*(write(client) for _ in range(BURST)))

    uncounted = [answer for answer in answers if not is_counted(answer)]
    print(f"{len(uncounted)} of {len(answers)} passed uncounted")
    assert {answer.status_code for answer in uncounted} <= {422}
    assert await failures(client) - before == len(uncounted)
    passed = [a for a in answers if is_counted(a) and a.status_code == 422]
    assert len(passed) <= LIMIT
