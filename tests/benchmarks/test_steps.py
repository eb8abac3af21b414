"""`benchmarks steps`: its variants respond as the service does."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import httpx2 as httpx
import pytest
from gunicorn.util import import_app

from benchmarks.servers import Application, serve
from benchmarks.steps import CHANGES, LAYERS, SERVICE, VARIANTS
from service.settings import Settings, get_settings
from tests.support.apps import client_of, serving
from tests.support.samples import LAMP

load: Callable[[str], Any] = import_app  # as Gunicorn does it
IN_PROCESS = [variant for variant in CHANGES if variant.worker == SERVICE.worker]


@pytest.fixture(autouse=True)
def database_in_environment(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Set DATABASE_URL, which variants read; undo what they patch afterwards."""
    assert settings.database_url
    url = settings.database_url.get_secret_value()
    monkeypatch.setenv("DATABASE_URL", url)
    get_settings.cache_clear()
    yield url
    patch.stopall()
    get_settings.cache_clear()


@pytest.fixture
async def item(client: httpx.AsyncClient) -> Any:
    """The only item there is, of id 1."""
    return (await client.post("/items", json=LAMP)).json()


def headers(answer: httpx.Response) -> dict[str, str]:
    varying = ("x-request-id", "ratelimit", "ratelimit-policy")
    return {name: value for name, value in answer.headers.items() if name not in varying}


@pytest.mark.parametrize("variant", IN_PROCESS, ids=lambda variant: variant.name)
async def test_a_variant_responds_as_the_service_does(
    variant: Application, item: Any, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variant.settings.items():
        monkeypatch.setenv(name, value)
    get_settings.cache_clear()

    async with serving(load(variant.target)) as changed:
        answer = await changed.get("/items/1")
        assert (answer.status_code, answer.json()) == (200, item)
        assert headers(answer) == headers(await client.get("/items/1"))
        assert (await changed.post("/items", json=LAMP)).status_code == 201
        assert (await changed.get("/items")).json()["total"] == 2


async def test_a_variant_of_the_worker_responds_as_the_service_does(
    item: Any, database_in_environment: str, tmp_path: Path
) -> None:
    with serve(VARIANTS["two writes"], 1, database_in_environment, tmp_path) as server:
        assert httpx.get(f"http://127.0.0.1:{server.port}/items/1").json() == item


@pytest.mark.parametrize("layer", LAYERS[:-1], ids=lambda layer: layer.name)
async def test_a_layer_responds_with_an_item(layer: Application, item: Any) -> None:
    async with client_of(load(layer.target)) as below:
        answer = await below.get("/items/1")

    assert (answer.status_code, answer.json().keys()) == (200, item.keys())
    assert answer.headers["content-type"] == "application/json"
