"""Many items in one request: stored in order, all or none."""

import asyncio
import json
from decimal import Decimal
from typing import Any

import httpx2 as httpx
import pytest
from fastapi import FastAPI
from pydantic import SecretStr
from sqlalchemy import text

from service.main import create_app
from service.settings import Settings
from service.state import state_of
from tests.support.apps import execute, serving
from tests.support.problems import check_problem
from tests.support.samples import LAMP

MOST = 1000  # items in a request
DEFAULTS = {"description": None, "price": None, "is_active": True}
JSON = {"Content-Type": "application/json"}


async def post(client: httpx.AsyncClient, items: Any) -> httpx.Response:
    return await client.post("/items/bulk", json={"items": items})


async def stored(client: httpx.AsyncClient) -> int:
    """Return the number of items."""
    total: int = (await client.get("/items?count=exact")).json()["total"]
    return total


def pointers(answer: httpx.Response) -> list[str]:
    """Assert that the response is a 422; return where the errors are."""
    return [error["pointer"] for error in check_problem(answer, 422, "invalid-input")["errors"]]


def thing(number: int) -> dict[str, Any]:
    """Return an item that differs from every other, also in what it leaves out."""
    item: dict[str, Any] = {"name": f"Thing {-number}"}
    if number % 2:
        item["description"] = f"Nº {number}\n💡"
    if number % 3:
        item["price"] = number / 4
    if number % 5 == 0:
        item["is_active"] = number % 10 == 0
    return item


@pytest.mark.parametrize("number", [1, MOST])
async def test_items_are_stored_and_returned_in_their_order(
    client: httpx.AsyncClient, number: int
) -> None:
    sent = [thing(n) for n in range(number)]
    answer = await post(client, sent)
    items = answer.json()["items"]
    ids = [item["id"] for item in items]

    assert answer.status_code == 201
    assert answer.headers["content-type"] == "application/json"
    assert [{name: item[name] for name in (*DEFAULTS, "name")} for item in items] == [
        DEFAULTS | item for item in sent
    ]
    assert ids == sorted(set(ids))
    assert {item["version"] for item in items} == {1}
    assert (await client.get("/items?per_page=100")).json()["items"] == items[:100]
    assert await stored(client) == number


async def test_items_are_read_as_in_a_single_create(
    client: httpx.AsyncClient, app: FastAPI
) -> None:
    content = """{"colour": "red", "items": [
        {"id": 99, "name": "  Lamp\\n", "price": 4503599627.37, "version": 7},
        {"name": "L", "price": 0.10, "description": "", "created_at": "yesterday"}
    ]}"""
    answer = await client.post("/items/bulk", content=content, headers=JSON)
    items = json.loads(answer.content, parse_float=Decimal)["items"]

    assert answer.status_code == 201
    assert [(item["id"], item["name"], item["price"], item["version"]) for item in items] == [
        (1, "Lamp", Decimal("4503599627.37"), 1),
        (2, "L", Decimal("0.1"), 1),
    ]
    async with state_of(app).engine.connect() as conn:
        prices = await conn.scalars(text("SELECT price FROM items ORDER BY id"))
        assert list(prices) == [Decimal("4503599627.37"), Decimal("0.10")]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"items": []}, ["#/items"]),
        ({"items": [LAMP] * (MOST + 1)}, ["#/items"]),
        ({}, ["#/items"]),
        ({"items": None}, ["#/items"]),
        ([LAMP], ["#"]),
        ({"items": [LAMP, None, "Lamp", [LAMP]]}, ["#/items/1", "#/items/2", "#/items/3"]),
        ({"items": [LAMP] * (MOST - 1) + [{"name": "n" * 256}]}, [f"#/items/{MOST - 1}/name"]),
        ({"items": [{"name": ""}] * MOST}, [f"#/items/{n}/name" for n in range(100)]),
        (
            {
                "items": [
                    {"name": "a\x00b"},
                    LAMP,
                    {"name": " ", "price": 1.001, "description": 5, "is_active": "yes"},
                    LAMP,
                    {},
                ]
            },
            [
                "#/items/0/name",
                "#/items/2/name",
                "#/items/2/description",
                "#/items/2/price",
                "#/items/2/is_active",
                "#/items/4/name",
            ],
        ),
    ],
    ids=lambda value: f"{value!s:.40}",
)
async def test_an_error_anywhere_stores_nothing_and_is_pointed_to(
    client: httpx.AsyncClient, body: Any, expected: list[str]
) -> None:
    assert pointers(await client.post("/items/bulk", json=body)) == expected
    assert await stored(client) == 0


async def test_an_item_that_only_the_database_refuses_stores_none(
    settings: Settings, own_database_url: str
) -> None:
    items = [LAMP] * 500 + [{"name": "Cursed"}] + [LAMP] * 499
    settings.database_url = SecretStr(own_database_url)
    app = create_app(settings)
    async with serving(app) as client:
        await execute(app, "ALTER TABLE items ADD CHECK (name <> 'Cursed')")
        refused, accepted = await asyncio.gather(post(client, items), post(client, [LAMP] * 3))

        assert pointers(refused) == ["#"]
        assert "Cursed" not in refused.text
        assert accepted.status_code == 201
        assert await stored(client) == 3
