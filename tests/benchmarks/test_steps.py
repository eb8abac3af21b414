"""The variants of `benchmarks steps`: they answer as the service does, or refuse to start."""

import gc
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import httpx2 as httpx
import pytest
from gunicorn.util import import_app

from benchmarks.results import Measurement
from benchmarks.servers import serve
from benchmarks.steps.figures import cpu_difference, merged, percent_more
from benchmarks.variants import changes, workers
from benchmarks.variants.catalog import CHANGES, LADDER, SERVICE, Variant
from service.server.worker import Worker
from service.settings import Settings, get_settings
from tests.support.apps import client_of, serving
from tests.support.commands import ROOT, clean_environment

load: Callable[[str], Any] = import_app  # as Gunicorn does it

NEW = {"name": "Desk lamp", "price": 29.99}
BY_GUNICORN = [v for v in CHANGES if v.worker != SERVICE.worker or v.arguments]
IN_PROCESS = [v for v in CHANGES if v not in BY_GUNICORN]


@pytest.fixture(autouse=True)
def database_in_environment(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The tests' database where a variant looks for its own; afterwards nothing is patched."""
    assert settings.database_url
    url = settings.database_url.get_secret_value()
    monkeypatch.setenv("DATABASE_URL", url)
    get_settings.cache_clear()
    yield url
    patch.stopall()
    get_settings.cache_clear()


@pytest.mark.parametrize("variant", IN_PROCESS, ids=lambda variant: variant.name)
async def test_a_variant_answers_as_the_service_does(
    variant: Variant, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    item = (await client.post("/items", json=NEW)).json()
    for name, value in variant.settings.items():
        monkeypatch.setenv(name, value)
    get_settings.cache_clear()

    async with serving(load(variant.target)) as changed:
        answer = await changed.get("/items/1")
        assert (answer.status_code, answer.json()) == (200, item)
        assert headers(answer) == headers(await client.get("/items/1"))
        assert (await changed.get("/items/2")).status_code == 404
        created = await changed.post("/items", json=NEW)
        assert (created.status_code, created.headers["location"]) == (201, "/items/2")
        assert (await changed.get("/items")).json()["total"] == 2


def headers(answer: httpx.Response) -> dict[str, str]:
    varying = ("x-request-id", "ratelimit", "ratelimit-policy")
    return {name: value for name, value in answer.headers.items() if name not in varying}


@pytest.mark.parametrize("variant", BY_GUNICORN, ids=lambda variant: variant.name)
async def test_a_variant_of_the_server_answers_as_the_service_does(
    variant: Variant, client: httpx.AsyncClient, database_in_environment: str, tmp_path: Path
) -> None:
    item = (await client.post("/items", json=NEW)).json()

    with serve("variant", 1, database_in_environment, tmp_path, variant.command()) as server:
        assert httpx.get(f"http://127.0.0.1:{server.port}/items/1").json() == item


@pytest.mark.parametrize("step", LADDER[:-1], ids=lambda step: step.name)
async def test_a_step_answers_with_an_item(step: Variant, client: httpx.AsyncClient) -> None:
    item = (await client.post("/items", json=NEW)).json()

    async with client_of(load(step.target)) as below:
        answer = await below.get("/items/1")

    assert (answer.status_code, answer.json().keys()) == (200, item.keys())
    assert answer.headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    ("target", "name"),
    [
        ("logged_through_structlog()", "service.main.request_logger"),
        ("written_line_by_line()", "service.log._stderr"),
        ("with_telemetry()", "service.main.FastAPIOffline"),
        ("sets_in_flight(4)", "service.routers.item.coalesce"),
        ("each_alone()", "service.routers.item.coalesce"),
    ],
)
def test_a_variant_whose_ground_has_moved_refuses_to_start(
    target: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(name)

    with pytest.raises(AttributeError, match=name.rpartition(".")[2]):
        load(f"{changes.__name__}:{target}")


@pytest.mark.parametrize(
    ("target", "name"),
    [
        ("called_by_fastapi()", "request_response"),
        ("logged_through_structlog()", "_structlogs_logger"),
        ("with_telemetry()", "FastAPIOffline"),
        ("sets_in_flight(4)", "coalesce"),
        ("each_alone()", "_uncoalesced"),
    ],
)
async def test_what_a_variant_puts_in_place_is_used(target: str, name: str) -> None:
    with patch.object(changes, name, wraps=getattr(changes, name)) as spy:
        async with serving(load(f"{changes.__name__}:{target}")):
            spy.assert_called()


def test_the_collector_is_untuned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Worker, "run", lambda worker: None)
    monkeypatch.setattr(gc, "set_threshold", lambda *values: thresholds.append(values))
    thresholds: list[tuple[int, ...]] = []
    gc.freeze()

    workers.UntunedCollector.run(object.__new__(workers.UntunedCollector))

    assert gc.get_freeze_count() == 0
    assert thresholds == [workers.THRESHOLDS]


def measurement(number: int, rate: float, cpu: float) -> Measurement:
    return Measurement("x", "read", 64, number, rate, errors=0, app_cpu=cpu)


def test_a_difference_is_made_within_each_round() -> None:
    base = [measurement(n, 1000, 80) for n in (1, 2, 3)]
    other = [
        measurement(n, rate, cpu) for n, rate, cpu in ((3, 900, 83), (1, 800, 81), (2, 1100, 9))
    ]

    assert cpu_difference(other, base) == "~ +1.0 (-71.0 to +3.0)"
    assert percent_more(other[:2], base, "rate") == "-15.0 (-20.0 to -10.0)"


def test_several_turns_of_one_round_count_as_their_median() -> None:
    turns = [measurement(1, rate, 80) for rate in (900, 1200, 1000)]

    assert merged([*turns, measurement(2, 7, 8)]) == [
        measurement(1, 1000, 80),
        measurement(2, 7, 8),
    ]


@pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed")
def test_a_small_run(server_url: str, tmp_path: Path) -> None:
    options = ["--quick", "--rows", "1000", "--only", "bare,two writes", "--database", server_url]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "steps", *options, "--out", str(tmp_path)],
        cwd=ROOT,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=120,
    )

    assert done.returncode == 0, done.stderr
    assert "Taken away, or put back, GET /items/{id}" in done.stdout
    assert {path.name for path in tmp_path.iterdir()} == {"steps.md", "steps.json"}
    report = json.loads((tmp_path / "steps.json").read_text())
    assert {m["app"] for m in report["measurements"]} == {"the service", "bare", "two writes"}
    assert all(m["rate"] and not m["errors"] for m in report["measurements"])
    assert report["memory"]["the service"]["worker_rss"] > 0
