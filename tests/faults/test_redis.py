"""Redis gone, slow, silent, read-only, back: nobody waits for it or is refused, and it is told."""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median

import httpx2 as httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.client import Client
from tests.support.processes import Server, running
from tests.support.redis import Redis, new_redis
from tests.support.waiting import wait_until

pytestmark = pytest.mark.faults

LIMIT = 200  # writes an hour; reads are without limit
WRITERS = 4
PAUSE = 0.02  # seconds between the requests of one client
# A busy machine makes requests slow, and none fast: that all were in time once is enough.
ATTEMPTS = 3
FAULTS = ["gone", "silent", "read-only"]

# What is limited, what takes the database alone, and what takes no more than the event loop.
KINDS = {
    "write": ("DELETE", "/items/0"),
    "read": ("GET", "/items/0"),
    "live": ("GET", "/health/live"),
    "ready": ("GET", "/health/ready"),
}
UNLIMITED = ("read", "live")  # of what is sent all the time


@dataclass(slots=True)
class Outcome:
    """How a request went."""

    kind: str
    status: int
    is_counted: bool  # whether it was told of its limits
    begun: float
    seconds: float


@pytest.fixture(scope="module")
def redis() -> Iterator[Redis]:
    with new_redis() as redis:
        yield redis


@contextmanager
def serving(database_url: str, redis: Redis) -> Iterator[Server]:
    """Run `items serve` with two workers, which limit writes."""
    environment = {
        "DATABASE_URL": database_url,
        "WEB_CONCURRENCY": "2",
        "RATE_LIMIT_WRITE": f"{LIMIT}/hour",
        "REDIS_URL": redis.proxy_url,
    }
    with running("serve", env=environment) as server:
        wait_until(lambda: len(server.events("started")) == 2)
        yield server


async def ask(server: Server, kind: str) -> Outcome:
    """Send one request, on a connection of its own, so that any worker may take it."""
    async with Client(server.url) as client:
        begun = time.monotonic()
        answer = await client.request(*KINDS[kind])
        seconds = time.monotonic() - begun
    return Outcome(kind, answer.status, "ratelimit" in answer.headers, begun, seconds)


def ask_all(server: Server, kind: str, number: int) -> list[int]:
    """Send so many requests at once. Answers with their statuses."""

    async def ask_each() -> list[Outcome]:
        return await asyncio.gather(*(ask(server, kind) for _ in range(number)))

    return [outcome.status for outcome in asyncio.run(ask_each())]


def load(server: Server, seconds: float, act: Callable[[], None] | None = None) -> list[Outcome]:
    """Send requests of all kinds for some seconds, after `act`, which happens under load too."""
    outcomes: list[Outcome] = []

    async def send_on(kind: str, over: asyncio.Event) -> None:
        while not over.is_set():
            outcomes.append(await ask(server, kind))
            await asyncio.sleep(PAUSE)

    async def send_all() -> None:
        over = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            for kind in ["write"] * WRITERS + [*UNLIMITED]:
                group.create_task(send_on(kind, over))
            if act:
                await asyncio.to_thread(act)
            await asyncio.sleep(seconds)
            over.set()

    asyncio.run(send_all())
    return outcomes


def seconds_of(outcomes: list[Outcome], kind: str) -> list[float]:
    return sorted(outcome.seconds for outcome in outcomes if outcome.kind == kind)


def none_waited(before: list[Outcome], during: list[Outcome]) -> bool:
    """Whether Redis has held up no request for longer than it may; prints how long they took."""
    for kind in ("write", *UNLIMITED):
        usual, taken = seconds_of(before, kind), seconds_of(during, kind)
        print(
            f"{kind}: {len(taken)} requests, median {median(taken) * 1000:.1f} ms"
            f" (before {median(usual) * 1000:.1f}), p95 {p95(taken) * 1000:.1f} ms,"
            f" longest {taken[-1] * 1000:.1f} ms (before {usual[-1] * 1000:.1f})"
        )
    limited = seconds_of(during, "write")[-1] - seconds_of(before, "write")[-1]
    # An event loop that waited for Redis would hold up these, too.
    others = [p95(seconds_of(during, kind)) - p95(seconds_of(before, kind)) for kind in UNLIMITED]
    return limited <= 0.1 and max(others) < 0.05


def p95(values: list[float]) -> float:
    return values[len(values) * 95 // 100]


def uncounted(server: Server) -> float:
    """How many requests have passed uncounted, by the metric."""
    metrics = httpx.get(f"{server.url}/metrics").text
    (value,) = [
        sample.value
        for family in text_string_to_metric_families(metrics)
        for sample in family.samples
        if sample.name == "rate_limit_failures_total"
    ]
    return value


def writes(outcomes: list[Outcome]) -> list[Outcome]:
    return [outcome for outcome in outcomes if outcome.kind == "write"]


def exhaust_limit(server: Server) -> None:
    """Send as many writes as may pass, many at once: the workers then have all the connections to
    the database that they will need, which take time to make and to warm up.
    """
    statuses = [status for _ in range(6) for status in ask_all(server, "write", LIMIT // 5)]
    assert sorted(statuses) == [404] * LIMIT + [429] * (LIMIT // 5)


def fail(redis: Redis, fault: str) -> None:
    if fault == "gone":
        redis.stop()
    elif fault == "read-only":
        redis.refuse_writes()
    else:
        redis.is_silent = True


def recover(redis: Redis, fault: str) -> float:
    """Have Redis be back; answers when."""
    if fault == "gone":
        redis.start()
    redis.take_writes()
    redis.is_silent = False
    return time.monotonic()


@pytest.mark.parametrize("seconds", [3, pytest.param(60, marks=pytest.mark.soak)])
@pytest.mark.parametrize("fault", FAULTS)
def test_limits_fail_open_and_nobody_waits(
    database_url: str, redis: Redis, fault: str, seconds: int
) -> None:
    def nobody_waits() -> bool:
        redis.reset()
        with serving(database_url, redis) as server:
            exhaust_limit(server)
            before = load(server, 1)
            fail(redis, fault)
            during = load(server, seconds)
            metric = uncounted(server)

        assert {outcome.status for outcome in writes(before)} == {429}
        assert {outcome.status for outcome in writes(during)} == {404}
        assert {outcome.status for outcome in during if outcome.kind == "live"} == {200}
        assert metric == len(writes(during))
        warnings = server.events("rate_limits_off")
        print(f"{fault}: {metric:.0f} passed uncounted, {len(warnings)} lines in the log say so")
        assert 1 <= len(warnings) <= 2 * (seconds // 10 + 2)  # each worker, every 10 s
        assert {line["level"] for line in warnings} == {"warning"}
        return none_waited(before, during)

    assert any(nobody_waits() for _ in range(ATTEMPTS))


@pytest.mark.parametrize("fault", FAULTS)
def test_limits_hold_again_when_redis_is_back(database_url: str, redis: Redis, fault: str) -> None:
    back = 0.0

    def come_back() -> None:
        nonlocal back
        back = recover(redis, fault)

    redis.reset()
    with serving(database_url, redis) as server:
        exhaust_limit(server)
        fail(redis, fault)
        assert {outcome.status for outcome in writes(load(server, 2))} == {404}
        after = writes(load(server, 4, come_back))

    after = [outcome for outcome in after if outcome.begun > back]
    last = max((o.begun - back for o in after if not o.is_counted), default=0.0)
    print(f"{fault}: the limit held again after {last:.2f} s")
    assert last < 2
    passed = [o for o in after if o.is_counted and o.status != 429]
    assert len(passed) == (LIMIT if fault == "gone" else 0)  # it has forgotten, or has not


@pytest.mark.parametrize("start", ["running", "starting"])
@pytest.mark.parametrize(
    ("delay", "handshake"),
    [
        pytest.param(0.025, 0, id="50 ms there and back"),
        pytest.param(0.025, 0.05, id="50 ms there and back, for each connection too"),
        pytest.param(0.05, 0, id="50 ms there and 50 ms back"),
    ],
)
@pytest.mark.parametrize("seconds", [2, pytest.param(30, marks=pytest.mark.soak)])
def test_a_slow_redis_holds_up_nobody(
    database_url: str, redis: Redis, delay: float, handshake: float, start: str, seconds: int
) -> None:
    def load_a_new_one(delay: float, handshake: float) -> tuple[list[Outcome], float]:
        redis.reset()
        with serving(database_url, redis) as server:
            if start == "running":
                exhaust_limit(server)
            else:  # without connections to Redis
                ask_all(server, "ready", 2 * WRITERS)
            redis.delay, redis.handshake = delay, handshake
            return load(server, seconds), uncounted(server)

    def nobody_waits() -> bool:
        before, _ = load_a_new_one(0.0, 0.0)
        during, metric = load_a_new_one(delay, handshake)
        # Each is counted, or passes and is told of.
        open_ = [outcome for outcome in writes(during) if not outcome.is_counted]
        print(f"counted: {len(writes(during)) - len(open_)} of {len(writes(during))}")
        assert {outcome.status for outcome in open_} <= {404}
        assert metric == len(open_)
        return none_waited(before, during)

    assert any(nobody_waits() for _ in range(ATTEMPTS))
