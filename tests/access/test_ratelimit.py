"""Rate limits: which requests count, for which client, and what a client past its limit gets."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any, cast

import httpx2 as httpx
import pytest
from fastapi import FastAPI, Request
from fastapi.routing import iter_route_contexts
from limits.aio.storage import MemoryStorage
from pydantic import SecretStr

from service.access import counters
from service.access.limits import limiter
from service.access.scopes import required_scopes
from service.domain.api_key import create_key, parse_keys
from service.main import create_app
from service.settings import Settings
from tests.support.logs import reading_log
from tests.support.problems import check_problem
from tests.support.processes import free_port
from tests.support.redis import Redis, new_redis, patience
from tests.support.samples import LAMP
from tests.support.waiting import TIMEOUT, until

Ask = Callable[..., Awaitable[httpx.Response]]

WRITES = [
    ("POST", "/items"),
    ("POST", "/items/bulk"),
    ("PUT", "/items/1"),
    ("PATCH", "/items/1"),
    ("DELETE", "/items/1"),
    ("DELETE", "/items/1?permanent=true"),
]
READS = [
    ("GET", "/items"),
    ("GET", "/items/export"),
    ("GET", "/items/1"),
    ("HEAD", "/items"),
    ("HEAD", "/items/1"),
]
READ = "items:read"
WRONG = "items_hunter2hunter2hunter2hunter2hunter2hunter2hunt"


@pytest.fixture(scope="module")
def redis() -> Iterator[Redis]:
    with new_redis() as redis:
        yield redis


@asynccontextmanager
async def limited(settings: Settings, **changes: Any) -> AsyncIterator[Ask]:
    """Run the application with changed settings; yield a function that sends it a request."""
    async with asking_app(create_app(settings.model_copy(update=changes))) as ask:
        yield ask


@asynccontextmanager
async def asking_app(app: FastAPI) -> AsyncIterator[Ask]:
    """Run `app`; yield a function that sends it a request."""

    async def ask(
        method: str = "GET",
        path: str = "/items",
        client: str = "10.0.0.1",
        key: str | None = None,
        **options: Any,
    ) -> httpx.Response:
        transport = httpx.ASGITransport(app, client=(client, 50_000))
        headers = options.pop("headers", {}) | ({"Authorization": f"Bearer {key}"} if key else {})
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
            return await http.request(method, path, headers=headers, **options)

    async with app.router.lifespan_context(app):
        yield ask


async def statuses(ask: Ask, times: int, *arguments: Any, **options: Any) -> list[int]:
    """Send the same request several times; return the statuses."""
    return [(await ask(*arguments, **options)).status_code for _ in range(times)]


async def until_status(ask: Ask, status: int) -> None:
    """Repeat a request until it gets this status."""
    async with asyncio.timeout(TIMEOUT):
        while (await ask()).status_code != status:  # noqa: ASYNC110 (only requests can tell)
            await asyncio.sleep(0.05)


@pytest.mark.parametrize(
    ("kind", "routes", "other"),
    [("write", WRITES, ("GET", "/items")), ("read", READS, ("DELETE", "/items/0"))],
)
async def test_routes_of_one_kind_count_together(
    settings: Settings, kind: str, routes: list[tuple[str, str]], other: tuple[str, str]
) -> None:
    async with limited(settings, **{f"rate_limit_{kind}": f"{len(routes)}/hour"}) as ask:
        for method, path in routes:
            assert (await ask(method, path)).status_code != 429
        for method, path in routes:
            assert (await ask(method, path.replace("1", "2"))).status_code == 429
        answer = await ask(*other)
        assert answer.status_code != 429
        assert "ratelimit" not in answer.headers


def test_every_operation_with_a_scope_declares_the_limit_of_its_kind(settings: Settings) -> None:
    kinds = {
        f"{method} {route.path_format}": [limit.scope for limit in limiter.declared(route.endpoint)]
        for route in iter_route_contexts(create_app(settings).routes)
        if required_scopes(getattr(route, "dependant", None)) and route.endpoint
        for method in route.methods or ()
    }
    assert "GET /items" in kinds
    for operation, kind in kinds.items():
        assert kind == ["read" if operation.startswith("GET") else "write"], operation


async def test_each_address_has_its_own_count_and_health_has_none(settings: Settings) -> None:
    async with limited(settings, rate_limit_read="2/hour", rate_limit_write="1/hour") as ask:
        for client in ("10.0.0.1", "10.0.0.2"):
            assert await statuses(ask, 3, client=client) == [200, 200, 429]
        for path in ("/health", "/health/live", "/health/ready"):
            assert await statuses(ask, 3, path=path) == [200, 200, 200]


async def test_refused_requests_count_too(settings: Settings) -> None:
    json = {"Content-Type": "application/json"}
    async with limited(settings, rate_limit_write="5/hour", max_body_bytes=1000) as ask:
        answers = [
            await ask("POST", json=LAMP),
            await ask("POST", json={"name": ""}),
            await ask("POST", content=b"{", headers=json),
            await ask("POST", json={"name": "x" * 2000}),
            await ask("POST", json=LAMP, params={"unknown": "1"}),
            await ask("POST", json=LAMP),
        ]

    assert [answer.status_code for answer in answers] == [201, 422, 422, 413, 422, 429]


async def test_a_client_past_its_limit_gets_429_and_the_time_to_wait(settings: Settings) -> None:
    async with limited(settings, rate_limit_write="1/minute") as ask:
        await ask("POST")
        answer = await ask("POST")

    check_problem(answer, 429, "too-many-requests")
    assert 1 <= int(answer.headers["retry-after"]) <= 60


async def test_headers_say_what_is_left_of_each_limit(settings: Settings) -> None:
    async with limited(settings, rate_limit_read="1/minute;2/hour") as ask:
        answers = [await ask() for _ in range(3)]

    policy = '"read-60";q=1;w=60, "read-3600";q=2;w=3600'
    assert [answer.headers["ratelimit-policy"] for answer in answers] == [policy] * 3
    for answer, left in zip(answers, [(0, 1), (0, 0), (0, 0)], strict=True):
        minute, hour = answer.headers["ratelimit"].split(", ")
        assert minute.startswith(f'"read-60";r={left[0]};t=')
        assert hour.startswith(f'"read-3600";r={left[1]};t=')
        assert 1 <= int(hour.partition("t=")[2]) <= 3600


@pytest.mark.parametrize(
    ("notation", "allowed", "longest_wait"),
    [
        ("2/minute;3/hour", 2, 60),
        ("3/minute;2/hour", 2, 3600),
        ("1/minute;1/hour", 1, 3600),  # past both: the longer wait
    ],
)
async def test_every_limit_of_several_holds(
    settings: Settings, notation: str, allowed: int, longest_wait: int
) -> None:
    async with limited(settings, rate_limit_read=notation) as ask:
        assert await statuses(ask, allowed) == [200] * allowed
        answer = await ask()

    assert answer.status_code == 429
    assert longest_wait / 60 < int(answer.headers["retry-after"]) <= longest_wait


async def test_a_new_window_begins_with_a_new_count(settings: Settings) -> None:
    async with limited(settings, rate_limit_read="1/second") as ask:
        await until_status(ask, 429)
        await until_status(ask, 200)


async def test_expired_counters_are_removed_from_memory(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(counters, "SWEEP_INTERVAL", 0.01)
    storage = cast(MemoryStorage, counters._create_storage(None))
    await storage.incr("kept", 3600)
    await storage.incr("expired", 1)
    await until(lambda: "expired" not in storage.storage)

    assert storage.storage.keys() == storage.expirations.keys() == {"kept"}
    assert storage.timer
    storage.timer.cancel()


async def test_a_key_has_one_count_from_every_address(settings: Settings) -> None:
    (old, one), (new, two), (other, three) = (
        create_key(name, [READ]) for name in ("shop", "shop", "10.0.0.1")
    )
    settings.api_keys = parse_keys(f"{one} {two} {three}")
    async with limited(settings, rate_limit_read="2/hour") as ask:
        # Keys of the same name count together.
        keys = (old, new, old, new)
        answers = [await ask(client=f"10.0.0.{n}", key=key) for n, key in enumerate(keys)]
        assert [answer.status_code for answer in answers] == [200, 200, 429, 429]
        # A key named like an address does not count with that address.
        assert await statuses(ask, 3, client="10.0.0.1") == [401, 401, 429]
        assert await statuses(ask, 3, client="10.0.0.1", key=other) == [200, 200, 429]


async def test_requests_without_a_known_key_count_by_address(settings: Settings) -> None:
    key, made = create_key("shop", [READ])
    settings.api_keys = parse_keys(made)
    async with limited(settings, rate_limit_read="3/hour") as ask:
        answers = [await ask(key=guess) for guess in (WRONG, None, f"{WRONG}x", WRONG, None)]

        assert [answer.status_code for answer in answers] == [401, 401, 401, 429, 429]
        assert (await ask(key=key)).status_code == 200
        assert (await ask(key=WRONG, client="10.0.0.2")).status_code == 401


async def test_requests_that_lack_the_scope_count(settings: Settings) -> None:
    key, made = create_key("shop", [READ])
    settings.api_keys = parse_keys(made)
    async with limited(settings, rate_limit_write="2/hour") as ask:
        assert await statuses(ask, 3, "POST", key=key) == [403, 403, 429]
        assert (await ask(key=key)).status_code == 200


async def test_applications_share_the_counts_in_redis(settings: Settings, redis: Redis) -> None:
    redis.reset()
    changes = {
        "rate_limit_read": "3/hour",
        "rate_limit_write": "1/hour",
        "redis_url": SecretStr(redis.url),
    }
    with patience():
        async with limited(settings, **changes) as one, limited(settings, **changes) as two:
            answers = [await ask() for ask in (one, two, two, one, two)]
            assert [answer.status_code for answer in answers] == [200, 200, 200, 429, 429]
            assert 60 < int(answers[-1].headers["retry-after"]) <= 3600
            # Kinds and clients are counted apart.
            assert (await one("DELETE", "/items/0")).status_code == 404
            assert (await two("DELETE", "/items/0")).status_code == 429
            assert (await two(client="10.0.0.2")).status_code == 200


async def test_requests_pass_uncounted_while_redis_is_silent(
    settings: Settings, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(counters, "REDIS_PAUSE", 0.1)
    redis.reset()
    url = SecretStr(redis.proxy_url)
    async with limited(settings, rate_limit_read="1/hour", redis_url=url) as ask:
        with patience():
            assert await statuses(ask, 2) == [200, 429]
        redis.fall_silent()
        assert await statuses(ask, 2) == [200, 200]
        redis.recover()
        with patience():
            await until_status(ask, 429)


async def test_the_log_says_that_redis_is_unavailable(settings: Settings) -> None:
    url = SecretStr(f"redis://:hunter2@127.0.0.1:{free_port()}")
    with reading_log() as log:
        async with limited(settings, rate_limit_read="1/hour", redis_url=url) as ask:
            assert await statuses(ask, 5) == [200] * 5

    events = log.events("rate_limits_off")
    assert 1 <= len(events) < 5  # not for each request
    assert events[0]["level"] == "warning"
    assert events[0]["error"] in ("ConnectionError", "TimeoutError")  # refused, or slow to be
    assert log.events("rate_limits_per_worker") == []
    assert "hunter2" not in log.text()


async def test_the_log_says_that_each_worker_counts_for_itself(settings: Settings) -> None:
    with reading_log() as log:
        async with limited(settings, rate_limit_write="1/hour"):
            pass

    assert len(log.events("rate_limits_per_worker")) == 1


async def test_limits_declared_as_slowapi_documents_count(settings: Settings) -> None:
    app = create_app(settings)
    exempt = False

    @app.get("/own")
    @limiter.limit("2/hour")
    async def own(request: Request) -> str:
        return "own"

    @app.get("/in-thread")
    @limiter.limit(lambda: "1/hour", key_func=lambda: "everybody")
    def in_thread(request: Request) -> str:
        return "in a thread"

    @app.get("/costly")
    @limiter.limit("5/hour", cost=lambda request: int(request.query_params["cost"]))
    async def costly(request: Request) -> str:
        return "costly"

    @app.get("/exempt")
    @limiter.limit("1/hour", exempt_when=lambda: exempt)
    async def sometimes(request: Request) -> str:
        return "exempt"

    @app.api_route("/methods", methods=["GET", "POST"])
    @limiter.limit("1/hour", per_method=True)
    async def methods(request: Request) -> str:
        return "methods"

    @app.get("/by-key")
    @limiter.limit(lambda key: "2/hour" if key.endswith("1") else "1/hour", error_message="slow")
    async def by_key(request: Request) -> str:
        return "by key"

    @app.get("/one")
    @limiter.shared_limit("2/hour", scope="both")
    async def one(request: Request) -> str:
        return "one"

    @app.get("/two")
    @limiter.shared_limit("2/hour", scope="both")
    async def two(request: Request) -> str:
        return "two"

    async with asking_app(app) as ask:
        assert await statuses(ask, 3, path="/own") == [200, 200, 429]
        assert await statuses(ask, 1, path="/own", client="10.0.0.2") == [200]
        assert await statuses(ask, 1, path="/in-thread") == [200]
        assert await statuses(ask, 1, path="/in-thread", client="10.0.0.2") == [429]
        assert await statuses(ask, 2, path="/costly?cost=3") == [200, 429]
        assert await statuses(ask, 2, path="/exempt") == [200, 429]
        exempt = True
        assert await statuses(ask, 2, path="/exempt") == [200, 200]
        assert await statuses(ask, 2, "POST", "/methods") == [200, 429]
        assert await statuses(ask, 2, path="/methods") == [200, 429]
        assert await statuses(ask, 3, path="/by-key", client="10.0.0.1") == [200, 200, 429]
        assert await statuses(ask, 2, path="/by-key", client="10.0.0.2") == [200, 429]
        assert await statuses(ask, 1, path="/one") == await statuses(ask, 1, path="/two") == [200]
        assert await statuses(ask, 1, path="/one") == [429]


def test_a_limit_in_another_notation_is_refused_where_it_is_declared() -> None:
    with pytest.raises(ValueError, match="couldn't parse"):
        limiter.limit("often")


@pytest.mark.parametrize(
    ("one", "other", "together"),
    [
        ("2001:db8:1:1::1", "2001:db8:1:1::32", True),
        ("2001:db8:1:1::1", "2001:0DB8:0001:0001:0:0:0:1", True),
        ("2001:db8:1:1::1", "2001:db8:1:2::1", False),
        ("::ffff:10.0.0.1", "10.0.0.1", True),
        ("10.0.0.1", "10.0.0.2", False),
        ("key:shop", "no address", True),  # a proxy that forwards anything makes one client
    ],
)
async def test_addresses_of_one_network_count_together(
    settings: Settings, one: str, other: str, together: bool
) -> None:
    async with limited(settings, rate_limit_read="1/hour") as ask:
        assert await statuses(ask, 1, client=one) == [200]
        assert await statuses(ask, 1, client=other) == [429 if together else 200]


async def test_a_forwarded_address_never_counts_as_a_key(settings: Settings) -> None:
    key, entry = create_key("shop", [READ])
    settings.api_keys = parse_keys(entry)
    async with limited(settings, rate_limit_read="1/hour") as ask:
        assert await statuses(ask, 1, client="key:shop") == [401]
        assert await statuses(ask, 1, client="10.0.0.1", key=key) == [200]
