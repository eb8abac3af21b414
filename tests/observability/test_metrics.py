"""What /metrics exposes, by the application in this process."""

import asyncio
from typing import Any

import httpx2 as httpx
import pytest
from fastapi import FastAPI
from prometheus_client import generate_latest
from pydantic import SecretStr
from sqlalchemy import text

from service import __version__
from service.database.engine import transactional
from service.main import create_app
from service.observability import metrics
from service.observability.metrics import METHODS, OTHER_METHODS
from service.observability.stderr import stderr
from service.routers import system
from service.settings import Settings
from service.state import state_of
from tests.support.apps import listening, serving, tolerate_locks, web_client
from tests.support.metrics import grown, scrape, scrape_until, value
from tests.support.samples import LAMP
from tests.support.waiting import TIMEOUT

COUNT, SUM, BUCKET = (
    f"http_request_duration_seconds_{each}" for each in ("count", "sum", "bucket")
)
QUEUES = {
    ("coalescer_waiting", frozenset({("call", call)}))
    for call in ("item.get_many", "item.create_many", "item.list_pages", "item.search_pages")
}
NO_REDIS = SecretStr("redis://127.0.0.1:1")
ROUTES = {
    *("/items", "/items/{item_id}", "/items/bulk", "/items/export", "unmatched", "/metrics"),
    *("/health", "/health/live", "/health/ready", "/docs", "/openapi.json"),
}


async def test_requests_are_counted_by_method_route_and_status(client: httpx.AsyncClient) -> None:
    before = await scrape(client)
    expected = []
    for method, path, route, status in (
        ("GET", "/items", "/items", 200),
        ("HEAD", "/items/0", "/items/{item_id}", 404),
        ("PUT", "/items", "/items", 405),
        ("POST", "/items", "/items", 422),
        ("GET", "/nowhere", "unmatched", 404),
    ):
        assert (await client.request(method, path)).status_code == status
        await client.request(method, path)
        expected.append({"method": method, "route": route, "status": str(status)})

    await scrape_until(
        client,
        lambda after: all(grown(before, after, COUNT, **labels) == 2 for labels in expected),
    )


async def test_durations_and_sizes_of_sets_are_histograms(client: httpx.AsyncClient) -> None:
    before = await scrape(client)
    for _ in range(10):
        await client.get("/items/0")
    labels = {"method": "GET", "route": "/items/{item_id}", "status": "404"}
    after = await scrape_until(client, lambda after: grown(before, after, COUNT, **labels) == 10)

    bounds = ("0.001", "0.1", "1.0", "10.0", "+Inf")
    buckets = [grown(before, after, BUCKET, le=le, **labels) for le in bounds]
    assert buckets == sorted(buckets)
    assert buckets[-1] == 10
    seconds = grown(before, after, SUM, **labels)
    assert seconds > 0
    assert seconds <= 10 * 0.1 or buckets[1] < 10  # 10 in the bucket of 0.1 s take 1 s at most
    assert grown(before, after, "coalescer_set_size_sum", call="item.get_many") == 10


async def test_queues_and_the_build_are_exposed(client: httpx.AsyncClient) -> None:
    samples = await scrape_until(client, lambda samples: samples.keys() >= QUEUES)

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
    last = {"method": "other", "route": "/items/{item_id}", "status": "405"}
    async with listening(app) as server, web_client(server) as client:
        before = await scrape(client)
        for n in range(5):
            assert (await client.get(f"/made-up-{n}")).status_code == 404
            assert (await client.get(f"/items/made-up-{n}")).status_code == 422
            assert (await client.get(f"/items?made-up-{n}=1")).status_code == 422
            assert (await client.request(f"MADE{n}", "/items")).status_code == 400
            method = ("PURGE", "PROPFIND", "MKCOL", "COPY", "LOCK")[n]  # known to the parser
            assert (await client.request(method, f"/items/{n}")).status_code == 405
        after = await scrape_until(client, lambda after: grown(before, after, COUNT, **last) == 5)

    labels = {label for _, labels in after.keys() - before.keys() for label in labels}
    assert not [label for _, label in labels if "made" in label.lower()]
    assert {label for name, label in labels if name == "route"} <= ROUTES
    assert {label for name, label in labels if name == "method"} <= {*METHODS, OTHER_METHODS}


async def test_scrapes_share_one_answer_for_a_second(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, made = 1000.0, 0

    def count(registry: Any) -> bytes:
        nonlocal made
        made += 1
        return generate_latest(registry)

    monkeypatch.setattr(metrics, "SCRAPE_INTERVAL", 1.0)
    monkeypatch.setattr(metrics, "exposition", metrics.Exposition())
    monkeypatch.setattr(system, "exposition", metrics.exposition)
    monkeypatch.setattr(metrics, "monotonic", lambda: now)
    monkeypatch.setattr(metrics, "generate_latest", count)
    answers = await asyncio.gather(*(client.get("/metrics") for _ in range(20)))
    assert (made, len({answer.content for answer in answers})) == (1, 1)

    now += 1.0
    assert (await client.get("/metrics")).status_code == 200
    assert made == 2


async def test_dropped_lines_of_the_log_are_counted(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = await scrape(client)
    monkeypatch.setattr(stderr, "_dropped", 3)

    await scrape_until(client, lambda after: grown(before, after, "log_lines_dropped_total") == 3)


@pytest.mark.parametrize(
    ("changes", "metric", "labels", "count"),
    [
        ({"rate_limit_write": "2/hour"}, "rate_limited_requests_total", {"kind": "write"}, 1),
        ({"rate_limit_read": "2/hour"}, "rate_limited_requests_total", {"kind": "read"}, 1),
        ({"rate_limit_read": "2/hour", "redis_url": NO_REDIS}, "rate_limit_failures_total", {}, 3),
        ({"request_timeout": 1e-9}, "deadline_exceeded_total", {}, 6),
    ],
    ids=["write limit", "read limit", "Redis", "deadline"],
)
async def test_refusals_and_failures_are_counted(
    settings: Settings, changes: dict[str, Any], metric: str, labels: dict[str, str], count: int
) -> None:
    changed = create_app(settings.model_copy(update=changes))
    async with serving(create_app(settings)) as reader, serving(changed) as client:
        before = await scrape(reader)
        for method in ("GET", "DELETE") * 3:
            await client.request(method, "/items/0")

        assert grown(before, await scrape(reader), metric, **labels) == count


async def test_metrics_can_be_switched_off(settings: Settings) -> None:
    settings.metrics_enabled = False
    async with serving(create_app(settings)) as client:
        assert (await client.get("/metrics")).status_code == 404
        assert (await client.get("/items")).status_code == 200


async def test_metrics_are_not_part_of_the_documented_api(app: FastAPI) -> None:
    assert "/metrics" not in app.openapi()["paths"]
