"""Items over HTTP: create, read, replace, change, delete."""

import json
from datetime import datetime
from decimal import Decimal
from typing import Any

import httpx2 as httpx
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from service.main import create_app
from service.settings import Settings
from service.state import state_of
from tests.support.problems import check_problem
from tests.support.samples import LAMP
from tests.support.statements import recording_statements

FULL: dict[str, Any] = LAMP | {"description": "Warm", "is_active": False}
DEFAULTS = {"description": None, "price": None, "is_active": True}
CALLS_ON_ONE: list[tuple[str, str, Any]] = [
    ("GET", "", None),
    ("PUT", "", {"name": "Lamp"}),
    ("PATCH", "", {"name": "Lamp"}),
    ("PATCH", "", {}),
    ("DELETE", "", None),
    ("DELETE", "?permanent=true", None),
]
TEXTS = [
    {"name": "n", "description": ""},
    {"name": "\U0001f4a1" * 255, "description": "\U0001f4a1" * 10_000},
    {"name": f"  {'é' * 255}\t\n\u00a0", "description": " two\nlines "},
]
PRICES = ["0", "-0.0", "0e-500", "0.01", "0.1", "1.10", "1e3", "4503599627.37", "9999999999.99"]


async def create(client: httpx.AsyncClient, **values: Any) -> Any:
    answer = await client.post("/items", json={"name": "Thing", **values})
    assert answer.status_code == 201, answer.text
    return answer.json()


async def read(client: httpx.AsyncClient, item: Any) -> Any:
    return (await client.get(f"/items/{item['id']}")).json()


def check_changed(before: Any, after: Any, **values: Any) -> None:
    """Assert that `after` is `before` with `values`, one version later."""
    system = {"version": before["version"] + 1, "updated_at": after["updated_at"]}
    assert after == before | values | system
    times = [datetime.fromisoformat(item["updated_at"]) for item in (before, after)]
    assert times[0] < times[1]


async def test_each_call_on_an_item_is_one_statement(
    app: FastAPI, client: httpx.AsyncClient
) -> None:
    """A transaction would hold the item's lock for more round trips."""
    for method, query, body in CALLS_ON_ONE:
        item = await create(client)  # the first call on a connection sends more
        await client.request(method, f"/items/{item['id']}{query}", json=body)
        item = await create(client)
        with recording_statements(state_of(app).engine.sync_engine) as sent:
            await client.request(method, f"/items/{item['id']}{query}", json=body)

        assert len(sent) == 1, (method, query)


async def test_create_returns_the_item_and_its_location(client: httpx.AsyncClient) -> None:
    answer = await client.post("/items", json=FULL)
    item = answer.json()

    assert answer.status_code == 201
    assert answer.headers["location"] == f"/items/{item['id']}"
    assert (await client.get(answer.headers["location"])).json() == item
    assert {name: item[name] for name in FULL} == FULL
    assert item["version"] == 1
    for name in ("created_at", "updated_at"):
        assert datetime.fromisoformat(item[name]).utcoffset() is not None


async def test_create_takes_the_defaults_and_ignores_fields_that_clients_do_not_set(
    client: httpx.AsyncClient,
) -> None:
    item = await create(client, id=99, version=7, created_at="yesterday", colour="red")

    assert {name: item[name] for name in DEFAULTS} == DEFAULTS
    assert (item["id"], item["version"]) == (1, 1)
    assert "colour" not in item


async def test_texts_are_trimmed_and_stored_up_to_their_bounds(client: httpx.AsyncClient) -> None:
    for values in TEXTS:
        item = await create(client, **values)

        assert {name: item[name] for name in values} == {k: v.strip() for k, v in values.items()}


async def test_a_price_is_exact_in_the_response_and_in_the_database(
    client: httpx.AsyncClient, conn: AsyncConnection
) -> None:
    for price in PRICES:
        content = f'{{"name": "Lamp", "price": {price}}}'
        headers = {"Content-Type": "application/json"}
        answer = await client.post("/items", content=content, headers=headers)
        item = json.loads(answer.text, parse_float=Decimal)

        assert item["price"] == Decimal(price)
        stored = await conn.scalar(text("SELECT price FROM items WHERE id = :id"), item)
        assert stored == Decimal(price)


async def test_every_call_on_a_missing_item_returns_404(client: httpx.AsyncClient) -> None:
    for id_ in (1, 0, -1, 2**63 - 1, -(2**63)):
        for method, query, body in CALLS_ON_ONE:
            answer = await client.request(method, f"/items/{id_}{query}", json=body)

            problem = check_problem(answer, 404, "not-found")
            assert problem["detail"] == "There is no item with this id"


async def test_put_replaces_the_item_and_resets_what_is_left_out(
    client: httpx.AsyncClient,
) -> None:
    item = await create(client, price=5)
    lamp = await client.put(f"/items/{item['id']}", json=FULL)
    torch = await client.put(f"/items/{item['id']}", json={"name": "Torch"})

    assert (lamp.status_code, torch.status_code) == (200, 200)
    check_changed(item, lamp.json(), **FULL)
    check_changed(lamp.json(), torch.json(), **DEFAULTS, name="Torch")
    assert await read(client, item) == torch.json()


async def test_patch_changes_only_what_is_sent_and_null_clears(client: httpx.AsyncClient) -> None:
    changes: list[dict[str, Any]] = [
        {"name": "Torch"},
        {"description": "Cold"},
        {"price": 0},
        {"is_active": True},
        {"name": "Torch", "price": 0.5},
        {"description": None},
        {"price": None},
    ]
    for change in changes:
        lamp = await create(client, **FULL)
        answer = await client.patch(f"/items/{lamp['id']}", json=change)

        assert answer.status_code == 200
        check_changed(lamp, answer.json(), **change)
        assert await read(client, lamp) == answer.json()


async def test_patch_with_nothing_to_change_leaves_the_item_alone(
    client: httpx.AsyncClient,
) -> None:
    item = await create(client)
    for body in ({}, {"colour": "red"}, {"version": 9}):
        answer = await client.patch(f"/items/{item['id']}", json=body)

        assert answer.status_code == 200
        assert answer.json() == item == await read(client, item)


async def test_delete_deactivates_once_and_patch_undoes_it(client: httpx.AsyncClient) -> None:
    item = await create(client)
    address = f"/items/{item['id']}"

    first = await client.delete(address)
    deleted = await read(client, item)
    again = await client.delete(address)

    assert (first.status_code, first.content) == (204, b"")
    check_changed(item, deleted, is_active=False)
    assert again.status_code == 204
    assert await read(client, item) == deleted

    undone = (await client.patch(address, json={"is_active": True})).json()
    assert (undone["is_active"], undone["version"]) == (True, 3)


async def test_permanent_delete_removes_the_item(client: httpx.AsyncClient) -> None:
    item = await create(client)
    address = f"/items/{item['id']}?permanent=true"
    answer = await client.delete(address)

    assert (answer.status_code, answer.content) == (204, b"")
    assert (await client.get(f"/items/{item['id']}")).status_code == 404
    assert (await client.delete(address)).status_code == 404


async def test_a_change_touches_no_other_item(client: httpx.AsyncClient) -> None:
    items = [await create(client, name=f"Thing {n}") for n in range(3)]
    for method, query, body in CALLS_ON_ONE:
        await client.request(method, f"/items/{items[1]['id']}{query}", json=body)

    assert (await client.get("/items")).json()["items"] == [items[0], items[2]]


def test_the_test_client_of_fastapi_works(settings: Settings) -> None:
    with TestClient(create_app(settings)) as client:
        answer = client.post("/items", json=LAMP)
        address = answer.headers["location"]

        assert client.get(address).json() == answer.json()
        assert client.patch(address, json={"price": 5}).json()["price"] == 5
        assert client.get("/items?sort=-id").json()["items"][0]["price"] == 5
        assert client.delete(f"{address}?permanent=true").status_code == 204
        assert client.get(address).status_code == 404
