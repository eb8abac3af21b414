"""The recipes of docs/recipes.md, run as they stand there."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import time
from types import ModuleType, SimpleNamespace
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from fastapi import FastAPI
from fastapi.testclient import TestClient
from pydantic import SecretStr
from sqlalchemy import text
from starlette.websockets import WebSocketDisconnect

from service.domain.api_key import create_key, parse_keys
from service.main import create_app
from service.settings import Settings
from service.state import state_of
from tests.support.apps import execute, serving
from tests.support.commands import ROOT
from tests.support.logs import reading_log
from tests.support.problems import check_problem

TEXT = (ROOT / "docs/recipes.md").read_text()
RECIPES = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", TEXT, re.DOTALL | re.MULTILINE))


def block(title: str, language: str) -> str:
    """Return the code in this language of a recipe."""
    (code,) = re.findall(rf"^```{language}\n(.*?)^```", RECIPES[title], re.DOTALL | re.MULTILINE)
    return str(code)


def module(title: str) -> Any:
    """Return the module of a recipe."""
    made = ModuleType("recipe")
    exec(compile(block(title, "python"), f"{title}.py", "exec"), made.__dict__)
    return made


@pytest.fixture
def settings(settings: Settings, own_database_url: str) -> Settings:
    """Settings with a database of the test's own, as recipes change its tables."""
    return settings.model_copy(update={"database_url": SecretStr(own_database_url)})


@asynccontextmanager
async def with_recipe(settings: Settings, title: str) -> AsyncIterator[tuple[Any, FastAPI, Any]]:
    """Run the application with a recipe; yield the recipe's module, the application, a client."""
    recipe, app = module(title), create_app(settings)
    app.include_router(recipe.router)
    async with serving(app) as client:
        yield recipe, app, client


async def count(app: FastAPI, table: str) -> Any:
    async with state_of(app).engine.connect() as conn:
        return await conn.scalar(text(f"SELECT count(*) FROM {table}"))


async def test_a_relation_and_a_transaction_over_both(settings: Settings) -> None:
    title = "A relation between two resources, and a transaction over both"
    async with with_recipe(settings, title) as (_, app, client):
        await execute(app, *block(title, "sql").strip().split(";\n"))
        await client.post("/items", json={"name": "Lamp"})
        answer = await client.post("/items/1/prices", json={"price": 12.5})
        assert (answer.status_code, answer.json()["version"]) == (201, 2)
        check_problem(await client.post("/items/2/prices", json={"price": 1}), 404, "not-found")
        assert await count(app, "price_changes") == 1
        # Neither is stored if the second statement fails.
        await execute(app, "ALTER TABLE price_changes ADD CHECK (price < 100)")
        assert (await client.post("/items/1/prices", json={"price": 100})).status_code == 422
        assert (await client.get("/items/1")).json()["price"] == 12.5


async def test_a_unique_column(settings: Settings) -> None:
    app = create_app(settings)
    async with serving(app) as client:
        await execute(app, block("A unique column", "sql"))
        names = [*"abcdefgh", "a"]
        with reading_log() as log:
            answers = await asyncio.gather(
                *(client.post("/items", json={"name": name}) for name in names)
            )
            (fault,) = log.events("database_fault")
        assert sorted(answer.status_code for answer in answers) == [201] * 8 + [409]
        (refused,) = [answer for answer in answers if answer.status_code == 409]
        check_problem(refused, 409, "conflict")
        assert fault["constraint"] == "uq_items_name"
        (one,) = (await client.get("/items?q=c")).json()["items"]
        answer = await client.patch(f"/items/{one['id']}", json={"name": "b"})
        check_problem(answer, 409, "conflict")
        body = {"items": [{"name": "x"}, {"name": "x"}]}
        check_problem(await client.post("/items/bulk", json=body), 409, "conflict")


async def test_a_background_job(settings: Settings) -> None:
    title = "A background job"
    done: list[Any] = []

    async def run(payload: Any) -> None:
        done.append(payload["name"])
        if payload["name"] == "bad":
            raise ValueError

    async with with_recipe(settings, title) as (recipe, app, client):
        await execute(app, block(title, "sql"))
        for name in ("a", "b", "bad"):
            assert (await client.post("/jobs", params={"name": name})).status_code == 202
        sessions = state_of(app).sessions
        assert await asyncio.gather(*(recipe.run_one_job(sessions, run) for _ in range(2))) == [
            True,
            True,
        ]
        with pytest.raises(ValueError):  # noqa: PT011
            await recipe.run_one_job(sessions, run)
        assert sorted(done) == ["a", "b", "bad"]
        assert await count(app, "jobs") == 1  # the failed job stays


async def test_a_second_version_of_the_api(settings: Settings) -> None:
    async with with_recipe(settings, "A second version of the API") as (_, _, client):
        await client.post("/items", json={"name": "Lamp", "price": 5})
        content = {"id": 1, "name": "Lamp", "price": {"amount": 5.0, "currency": "EUR"}}
        assert (await client.get("/v2/items/1")).json() == content
        check_problem(await client.get("/v2/items/2"), 404, "not-found")


async def test_login_by_jwt(settings: Settings) -> None:
    recipe = module("Login by JWT in place of API keys")
    key = rsa.generate_private_key(65537, 2048)
    keys = SimpleNamespace(get_signing_key_from_jwt=lambda _: SimpleNamespace(key=key.public_key()))
    settings.rate_limit_read = "3/hour"

    def token(scope: str, **changes: Any) -> dict[str, str]:
        claims = {"sub": "ann", "aud": "items", "iss": "us", "exp": time() + 60, "scope": scope}
        encoded = jwt.encode(claims | changes, key, "RS256")
        return {"Authorization": f"Bearer {encoded}"}

    app = create_app(settings)
    async with serving(app) as client:
        state_of(app).identify = recipe.identify_by_token(keys, "items", "us")
        answers = [
            await client.get("/items"),
            await client.get("/items", headers=token("items:read", aud="other")),
            await client.get("/items", headers=token("items:read", exp=1)),
        ]
        assert [answer.status_code for answer in answers] == [401] * 3
        ann = token("items:read items:write")
        assert (await client.post("/items", json={"name": "Lamp"}, headers=ann)).status_code == 201
        deletion = await client.delete("/items/1?permanent=true", headers=ann)
        check_problem(deletion, 403, "forbidden")
        statuses = [(await client.get("/items", headers=ann)).status_code for _ in range(4)]
        assert statuses == [200, 200, 200, 429]


async def test_upload_of_a_file(settings: Settings) -> None:
    async with with_recipe(settings, "Upload of a file") as (_, _, client):
        answer = await client.post("/files", files={"file": b"content"})
        assert (answer.status_code, answer.json()["size"]) == (200, 7)
        large = await client.post("/files", files={"file": bytes(10_000_001)})
        assert large.status_code == 413


def test_a_websocket(settings: Settings) -> None:
    key, entry = create_key("shop", ["items:read"])
    app = create_app(settings.model_copy(update={"api_keys": parse_keys(entry)}))
    app.include_router(module("A WebSocket").router)
    with TestClient(app) as client:
        with client.websocket_connect("/echo", headers={"Authorization": f"Bearer {key}"}) as chat:
            chat.send_text("hello")
            assert chat.receive_text() == "hello"
        with pytest.raises(WebSocketDisconnect), client.websocket_connect("/echo"):
            pass
