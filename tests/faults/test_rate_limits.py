"""Rate limits counted in Redis, over several applications and workers, and by client address."""

import asyncio
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, contextmanager
from itertools import cycle, islice

import httpx2 as httpx
import pytest
from pydantic import SecretStr

from service.main import create_app
from service.settings import Settings
from tests.support import apps
from tests.support.processes import Server, running
from tests.support.redis import Redis, new_redis, patience
from tests.support.waiting import TIMEOUT, wait_until

pytestmark = pytest.mark.faults

APPLICATIONS = 3
CLIENTS = 32  # requests in flight
DAY = 86_400  # seconds; no test lasts until a window of a day ends
WRITE = "/items/lamp"  # to delete it gets 422 without the database, or 429
LEFT = re.compile(r";r=(\d+);t=(\d+)")

# Good requests and bad ones, by the limit that counts them.
CALLS = {
    "write": ["POST /items", "PUT /items/0", "DELETE /items/0", "DELETE /items/0?unknown=1"],
    "read": ["GET /items", "HEAD /items/0", "GET /items/lamp", "GET /items/export?format=xml"],
}


@pytest.fixture(scope="module")
def started_redis() -> Iterator[Redis]:
    with new_redis() as redis:
        yield redis


@pytest.fixture
def redis(started_redis: Redis) -> Redis:
    """Redis without counts."""
    started_redis.reset()
    return started_redis


@pytest.fixture
def settings(settings: Settings, redis: Redis) -> Settings:
    settings.redis_url = SecretStr(redis.proxy_url)
    return settings


@contextmanager
def serving(database_url: str, **env: str) -> Iterator[Server]:
    """Run `items serve`."""
    with running("serve", env={"DATABASE_URL": database_url, **env}) as server:
        wait_until(lambda: len(server.events("started")) == int(env["WEB_CONCURRENCY"]))
        yield server


def left(answer: httpx.Response) -> list[tuple[int, int]]:
    """Return what is left of each limit: requests, and seconds until its window ends."""
    return [(int(r), int(t)) for r, t in LEFT.findall(answer.headers["ratelimit"])]


@pytest.mark.parametrize("allowed", [30, pytest.param(500, marks=pytest.mark.soak)])
async def test_exactly_the_limit_passes_over_several_applications(
    settings: Settings, redis: Redis, allowed: int
) -> None:
    settings.rate_limit_read = settings.rate_limit_write = f"{allowed}/day"
    redis.delay = 0.005  # so that the first requests of all applications meet in Redis
    in_flight = asyncio.Semaphore(CLIENTS)

    async def send(client: httpx.AsyncClient, call: str) -> httpx.Response:
        async with in_flight:
            return await client.request(*call.split())

    async def send_all(clients: list[httpx.AsyncClient], calls: list[str]) -> list[httpx.Response]:
        pairs = islice(zip(cycle(clients), cycle(calls), strict=False), 5 * allowed)
        return await asyncio.gather(*(send(*pair) for pair in pairs))

    begun = time.monotonic()
    with patience():
        async with AsyncExitStack() as stack:
            clients = [
                await stack.enter_async_context(apps.serving(create_app(settings)))
                for _ in range(APPLICATIONS)
            ]
            answers = await asyncio.gather(*(send_all(clients, each) for each in CALLS.values()))
    seconds = time.monotonic() - begun

    for kind, of_kind in zip(CALLS, answers, strict=True):
        passed = [answer for answer in of_kind if answer.status_code != 429]
        refused = [answer for answer in of_kind if answer.status_code == 429]
        assert sorted(left(answer)[0][0] for answer in passed) == [*range(allowed)]
        assert {left(answer)[0][0] for answer in refused} == {0}
        for answer in of_kind:
            ((_, reset),) = left(answer)
            assert DAY - seconds - 2 <= reset <= DAY
            assert answer.headers["ratelimit-policy"] == f'"{kind}-{DAY}";q={allowed};w={DAY}'
            if answer.status_code == 429:
                assert answer.headers["retry-after"] == str(reset)


async def test_several_limits_in_redis_all_hold(settings: Settings) -> None:
    settings.rate_limit_write = "2/day;3/month;10/year"
    with patience():
        async with apps.serving(create_app(settings)) as client:
            answers = [await client.delete(WRITE) for _ in range(5)]

    assert [answer.status_code for answer in answers] == [422, 422, 429, 429, 429]
    assert [[r for r, _ in left(answer)] for answer in answers] == [
        [1, 2, 9],
        [0, 1, 8],
        [0, 0, 7],
        [0, 0, 6],
        [0, 0, 5],
    ]
    # A client past two limits waits for the later end.
    waits = [int(answer.headers["retry-after"]) for answer in answers[2:]]
    assert waits[0] <= DAY < 29 * DAY < waits[1] <= 30 * DAY


@pytest.mark.parametrize("rounds", [1, pytest.param(20, marks=pytest.mark.soak)])
async def test_a_client_that_waits_for_retry_after_passes(settings: Settings, rounds: int) -> None:
    settings.rate_limit_write = "1/2 second"
    with patience():
        async with apps.serving(create_app(settings)) as client:
            for _ in range(rounds):
                answer = await write_until(client, 429)
                wait = int(answer.headers["retry-after"])
                assert wait in (1, 2)
                await asyncio.sleep(wait + 0.01)  # Redis counts in whole milliseconds
                assert (await client.delete(WRITE)).status_code == 422
            # Requests meanwhile do not make the window longer.
            await write_until(client, 429)
            await write_until(client, 422)


async def write_until(client: httpx.AsyncClient, status: int) -> httpx.Response:
    """Send writes until one gets this status; return its answer."""
    async with asyncio.timeout(TIMEOUT):
        answer = await client.delete(WRITE)
        while answer.status_code != status:
            await asyncio.sleep(0.005)
            answer = await client.delete(WRITE)
    return answer


def test_workers_share_the_counts_in_redis(database_url: str, redis: Redis) -> None:
    """A request may pass uncounted where a busy machine makes Redis slow; all others count."""
    env = {"WEB_CONCURRENCY": "2", "REDIS_URL": redis.url, "RATE_LIMIT_WRITE": "20/day"}
    # Each request has its own connection, which any worker may accept.
    limits = httpx.Limits(max_keepalive_connections=0)
    with serving(database_url, **env) as server, httpx.Client(limits=limits) as client:

        def write() -> httpx.Response:
            return client.delete(server.url + WRITE)

        with ThreadPoolExecutor(CLIENTS) as threads:
            answers = [*threads.map(lambda _: write(), range(100))]
        wait_until(lambda: write().status_code == 429)

    counted = [answer for answer in answers if "ratelimit" in answer.headers]
    passed = [left(answer)[0][0] for answer in counted if answer.status_code == 422]
    print(f"{len(passed)} passed, {len(answers) - len(counted)} of {len(answers)} uncounted")
    assert len(set(passed)) == len(passed) <= 20
    assert len(passed) + len(answers) - len(counted) >= 20


def test_headers_from_an_untrusted_address_do_not_change_the_client(database_url: str) -> None:
    names = ("X-Forwarded-For", "X-Real-IP", "Forwarded", "X-Client-IP", "True-Client-IP")
    with forwarding(database_url, "10.255.255.1") as ask:
        answers = [ask({name: f"198.51.100.{n}"}) for n, name in enumerate(names)]

    assert [answer.status_code for answer in answers] == [422, 422, 429, 429, 429]


def test_the_rightmost_untrusted_address_from_a_trusted_proxy_is_the_client(
    database_url: str,
) -> None:
    trusted = "127.0.0.1, 10.0.0.0/8, 2001:db8::/32"
    with forwarding(database_url, trusted) as ask:

        def is_new(*addresses: str) -> bool:
            """Whether a request forwarded for these is the first of its client."""
            headers = {"X-Forwarded-For": ", ".join(addresses)} if addresses else {}
            return left(ask(headers))[0][0] == 1

        assert is_new("203.0.113.1")
        assert is_new("203.0.113.2")
        assert not is_new("203.0.113.1")
        assert ask({"X-Forwarded-For": "203.0.113.1"}).status_code == 429
        # Addresses to the left of the client's are what it has sent itself.
        assert not is_new("198.51.100.1", "203.0.113.1")
        assert not is_new("198.51.100.4", "203.0.113.1", "10.1.2.3", "2001:db8::1")
        assert not is_new("anything", "", "203.0.113.1", "10.1.2.3")
        assert is_new("198.51.100.1")
        assert is_new("2001:db9::1")
        assert is_new("10.1.2.3", "203.0.113.3", "10.1.2.3")
        assert not is_new("203.0.113.3")
        # A proxy that forwards for nobody is the client.
        assert is_new()
        assert not is_new()


@contextmanager
def forwarding(
    database_url: str, trusted: str
) -> Iterator[Callable[[dict[str, str]], httpx.Response]]:
    """Run one worker that allows each client two writes and trusts these addresses.

    Yields a function that sends a write with the headers that it is given.
    """
    env = {"WEB_CONCURRENCY": "1", "RATE_LIMIT_WRITE": "2/day", "FORWARDED_ALLOW_IPS": trusted}
    with serving(database_url, **env) as server, httpx.Client(base_url=server.url) as client:
        yield lambda headers: client.delete(WRITE, headers=headers)
