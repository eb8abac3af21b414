"""What /metrics exposes, by the application in this process."""

import asyncio

import httpx2 as httpx
import pytest
from fastapi import FastAPI
from pydantic import SecretStr
from sqlalchemy import text

from service import __version__
from service.database.engine import transactional
from service.main import create_app
from service.observability import metrics
from service.settings import Settings
from service.state import state_of
from tests.support.apps import listening, serving, tolerate_locks, web_client
from tests.support.metrics import scrape, scrape_until, value
from tests.support.samples import LAMP
from tests.support.waiting import TIMEOUT

DURATION = "http_request_duration_seconds"
ROUTES = {
    *("/items", "/items/{item_id}", "/items/bulk", "/items/export", "unmatched", "/metrics"),
    *("/health", "/health/live", "/health/ready", "/docs", "/openapi.json"),
}


@pytest.mark.parametrize(
    ("method", "path", "route", "status"),
    [
        ("GET", "/items", "/items", 200),
        ("HEAD", "/items/0", "/items/{item_id}", 404),
        ("PUT", "/items", "/items", 405),
        ("POST", "/items", "/items", 422),
        ("GET", "/nowhere", "unmatched", 404),
    ],
)
async def test_requests_are_counted_by_method_route_and_status(
    client: httpx.AsyncClient, method: str, path: str, route: str, status: int
) -> None:
    labels = {"method": method, "route": route, "status": str(status)}
    before = value(await scrape(client), f"{DURATION}_count", **labels)
    for _ in range(3):
        assert (await client.request(method, path)).status_code == status

    await scrape_until(
        client, lambda samples: value(samples, f"{DURATION}_count", **labels) == before + 3
    )


async def test_durations_are_a_histogram(client: httpx.AsyncClient) -> None:
    labels = {"method": "GET", "route": "/items/{item_id}", "status": "404"}
    before = await scrape(client)
    count = value(before, f"{DURATION}_count", **labels)
    for _ in range(10):
        await client.get("/items/0")
    after = await scrape_until(
        client, lambda samples: value(samples, f"{DURATION}_count", **labels) == count + 10
    )

    def grown(name: str, **more: str) -> float:
        return value(after, name, **labels, **more) - value(before, name, **labels, **more)

    buckets = [grown(f"{DURATION}_bucket", le=le) for le in ("0.001", "0.1", "1.0", "10.0", "+Inf")]
    assert buckets == sorted(buckets)
    assert buckets[-1] == 10
    seconds = grown(f"{DURATION}_sum")
    assert seconds > 0
    assert seconds <= 10 * 0.1 or buckets[1] < 10  # 10 in the bucket of 0.1 s take 1 s at most


async def test_the_size_of_sets_and_the_build_are_exposed(client: httpx.AsyncClient) -> None:
    size, call = "coalescer_set_size_sum", "item.get_many"
    before = value(await scrape(client), size, call=call)
    for _ in range(10):
        await client.get("/items/0")
    samples = await scrape_until(
        client, lambda samples: ("coalescer_waiting", frozenset({("call", call)})) in samples
    )

    assert value(samples, size, call=call) - before == 10
    waiting = {dict(labels)["call"] for name, labels in samples if name == "coalescer_waiting"}
    assert waiting >= {"item.create_many", "item.list_pages", "item.search_pages"}
    (build,) = [dict(labels) for name, labels in samples if name == "service_build_info"]
    assert build["version"] == __version__


async def test_gauges_show_what_is_under_way(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "SAMPLE_INTERVAL", 0.02)
    settings.pool_size, settings.request_timeout = 3, TIMEOUT
    app = create_app(tolerate_locks(settings, monkeypatch))
    async with serving(app) as client:
        async with transactional(state_of(app).engine).begin() as conn:
            await conn.execute(text("LOCK TABLE items"))
            requests = [
                asyncio.create_task(client.put("/items/1", json=LAMP)),
                *(asyncio.create_task(client.get(f"/items/{n}")) for n in range(7)),
            ]
            await scrape_until(
                client,
                lambda samples: (
                    value(samples, "http_requests_in_progress") >= len(requests)
                    and value(samples, "transactions_open") == 1
                    and value(samples, "database_connections_in_use") >= 3  # conn, reads, the write
                    and value(samples, "database_connections_max") == 3 + 10
                ),
            )
        await asyncio.gather(*requests)

        await scrape_until(
            client,
            lambda samples: (
                value(samples, "http_requests_in_progress") <= 1  # the scrape
                and value(samples, "transactions_open") == 0
                and value(samples, "database_connections_in_use") == 0
            ),
        )


async def test_clients_cannot_add_labels(app: FastAPI) -> None:
    # So that nobody can fill the memory with them.
    last = {"method": "PURGE", "route": "/items/{item_id}", "status": "405"}
    async with listening(app) as server, web_client(server) as client:
        before = value(await scrape(client), f"{DURATION}_count", **last)
        for n in range(5):
            assert (await client.get(f"/made-up-{n}")).status_code == 404
            assert (await client.get(f"/items/made-up-{n}")).status_code == 422
            assert (await client.get(f"/items?made-up-{n}=1")).status_code == 422
            assert (await client.request(f"MADE{n}", "/items")).status_code == 400
            assert (await client.request("PURGE", f"/items/{n}")).status_code == 405
        samples = await scrape_until(
            client, lambda samples: value(samples, f"{DURATION}_count", **last) == before + 5
        )

    labels = {label for _, labels in samples for label in labels}
    assert not [label for _, label in labels if "made" in label.lower()]
    assert {label for name, label in labels if name == "route"} <= ROUTES


@pytest.mark.parametrize(
    ("changes", "method", "metric", "labels"),
    [
        (
            {"rate_limit_write": "2/hour"},
            "DELETE",
            "rate_limited_requests_total",
            {"kind": "write"},
        ),
        ({"rate_limit_read": "2/hour"}, "GET", "rate_limited_requests_total", {"kind": "read"}),
        (
            {
                "rate_limit_read": "2/hour",
                "redis_url": SecretStr("redis://127.0.0.1:1"),
            },
            "GET",
            "rate_limit_failures_total",
            {},
        ),
        ({"request_timeout": 1e-9}, "GET", "deadline_exceeded_total", {}),
    ],
    ids=["write limit", "read limit", "Redis", "deadline"],
)
async def test_refusals_and_failures_are_counted(
    settings: Settings, changes: dict[str, object], method: str, metric: str, labels: dict[str, str]
) -> None:
    async with (
        serving(create_app(settings)) as reader,
        serving(create_app(settings.model_copy(update=changes))) as client,
    ):
        before = value(await scrape(reader), metric, **labels)
        for _ in range(5):
            await client.request(method, "/items/0")
        after = value(await scrape(reader), metric, **labels)

    assert after - before == (3 if metric == "rate_limited_requests_total" else 5)


async def test_metrics_can_be_switched_off(settings: Settings) -> None:
    settings.metrics_enabled = False
    async with serving(create_app(settings)) as client:
        assert (await client.get("/metrics")).status_code == 404
        assert (await client.get("/items")).status_code == 200


async def test_metrics_are_not_part_of_the_documented_api(app: FastAPI) -> None:
    assert "/metrics" not in app.openapi()["paths"]
