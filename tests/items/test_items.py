"""Items over HTTP: create, read, replace, change, delete."""

import json
from datetime import datetime
from decimal import Decimal
from typing import Any

import httpx2 as httpx
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import event, text
from sqlalchemy.engine import AdaptedConnection
from sqlalchemy.ext.asyncio import AsyncConnection

from service.main import create_app
from service.settings import Settings

LAMP = {"name": "Lamp", "description": "Warm", "price": 29.99, "is_active": False}
DEFAULTS = {"description": None, "price": None, "is_active": True}
EVERY_CALL_ON_ONE = [
    ("GET", "", None),
    ("HEAD", "", None),
    ("PUT", "", {"name": "Lamp"}),
    ("PATCH", "", {"name": "Lamp"}),
    ("PATCH", "", {}),
    ("DELETE", "", None),
    ("DELETE", "?permanent=true", None),
]


async def create(client: httpx.AsyncClient, **values: Any) -> Any:
    answer = await client.post("/items", json={"name": "Thing", **values})
    assert answer.status_code == 201
    return answer.json()


async def read(client: httpx.AsyncClient, item: Any) -> Any:
    return (await client.get(f"/items/{item['id']}")).json()


@pytest.mark.parametrize(("method", "query", "body"), EVERY_CALL_ON_ONE)
async def test_each_call_on_an_item_is_one_statement(
    app: FastAPI, client: httpx.AsyncClient, method: str, query: str, body: Any
) -> None:
    """A transaction would lock the item for its round trips, too."""
    item = await create(client)
    sent: list[str] = []

    @event.listens_for(app.state.engine.sync_engine, "before_cursor_execute")
    def note(_: object, cursor: object, statement: str, *rest: object) -> None:
        sent.append(statement)

    @event.listens_for(app.state.engine.sync_engine, "checkout")
    def watch(connection: AdaptedConnection, record: object, proxy: object) -> None:
        driver: Any = connection.driver_connection
        driver.add_query_logger(lambda query: sent.append(query.query))  # BEGIN and COMMIT

    await client.request(method, f"/items/{item['id']}{query}", json=body)
    item = await create(client)
    sent.clear()  # what a connection says for the first time
    await client.request(method, f"/items/{item['id']}{query}", json=body)
    assert len(sent) == 1


async def test_create_answers_with_the_item_and_its_address(client: httpx.AsyncClient) -> None:
    answer = await client.post("/items", json=LAMP)
    item = answer.json()

    assert answer.status_code == 201
    assert answer.headers["location"] == f"/items/{item['id']}"
    assert (await client.get(answer.headers["location"])).json() == item
    assert {name: item[name] for name in LAMP} == LAMP
    assert item["version"] == 1
    for name in ("created_at", "updated_at"):
        assert datetime.fromisoformat(item[name]).utcoffset() is not None


async def test_create_with_a_name_alone_takes_the_defaults(client: httpx.AsyncClient) -> None:
    item = await create(client)

    assert {name: item[name] for name in DEFAULTS} == DEFAULTS


async def test_fields_that_clients_do_not_decide_are_ignored(client: httpx.AsyncClient) -> None:
    item = await create(client, id=99, version=7, created_at="yesterday", colour="red")

    assert (item["id"], item["version"]) == (1, 1)
    assert "colour" not in item


async def test_strings_are_trimmed(client: httpx.AsyncClient) -> None:
    item = await create(client, name="  Desk lamp\t\n\u00a0", description=" Warm ")

    assert (item["name"], item["description"]) == ("Desk lamp", "Warm")


@pytest.mark.parametrize(
    "values",
    [
        {"name": "n"},
        {"name": "é" * 255},
        {"name": "\U0001f4a1" * 255},
        {"name": f"  {'n' * 255}  "},
        {"description": ""},
        {"description": "\U0001f4a1" * 10_000},
        {"description": "two\nlines"},
    ],
    ids=lambda values: f"{next(iter(values))} of {len(next(iter(values.values())))}",
)
async def test_values_at_their_bounds_are_kept(
    client: httpx.AsyncClient, values: dict[str, str]
) -> None:
    item = await create(client, **values)

    assert {name: item[name] for name in values} == {k: v.strip() for k, v in values.items()}


@pytest.mark.parametrize(
    "price",
    [
        "0",
        "-0.0",
        "0e-500",
        "0.01",
        "0.1",
        "1.10",
        "29.99",
        "5",
        "1e3",
        "4503599627.37",
        "9999999999.99",
    ],
)
async def test_a_price_is_a_number_on_the_wire_and_exact_in_the_database(
    client: httpx.AsyncClient, conn: AsyncConnection, price: str
) -> None:
    answer = await client.post(
        "/items",
        content=f'{{"name": "Lamp", "price": {price}}}',
        headers={"Content-Type": "application/json"},
    )

    assert answer.status_code == 201
    assert json.loads(answer.text, parse_float=Decimal)["price"] == Decimal(price)
    assert await conn.scalar(text("SELECT price FROM items")) == Decimal(price)


@pytest.mark.parametrize(("method", "query", "body"), EVERY_CALL_ON_ONE)
@pytest.mark.parametrize("id_", [1, 0, -1, 2**63 - 1])
async def test_an_item_that_is_not_there_is_a_404(
    client: httpx.AsyncClient, method: str, query: str, body: Any, id_: int
) -> None:
    answer = await client.request(method, f"/items/{id_}{query}", json=body)

    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"


async def test_put_replaces_all_and_what_is_left_out_returns_to_its_default(
    client: httpx.AsyncClient,
) -> None:
    lamp = await create(client, **LAMP)
    answer = await client.put(f"/items/{lamp['id']}", json={"name": "Torch"})
    torch = answer.json()

    assert answer.status_code == 200
    assert torch == {
        **lamp,
        **DEFAULTS,
        "name": "Torch",
        "version": 2,
        "updated_at": torch["updated_at"],
    }
    assert datetime.fromisoformat(torch["updated_at"]) > datetime.fromisoformat(lamp["updated_at"])
    assert await read(client, lamp) == torch


async def test_put_takes_every_field(client: httpx.AsyncClient) -> None:
    item = await create(client)
    answer = await client.put(f"/items/{item['id']}", json=LAMP)

    assert {name: answer.json()[name] for name in LAMP} == LAMP


@pytest.mark.parametrize(
    "change",
    [
        {"name": "Torch"},
        {"description": "Cold"},
        {"price": 0},
        {"is_active": True},
        {"name": "Torch", "price": 0.5},
        {"description": None},
        {"price": None},
    ],
    ids=str,
)
async def test_patch_changes_only_what_was_sent_and_null_clears(
    client: httpx.AsyncClient, change: dict[str, Any]
) -> None:
    lamp = await create(client, **LAMP)
    answer = await client.patch(f"/items/{lamp['id']}", json=change)
    changed = answer.json()

    assert answer.status_code == 200
    assert changed == {**lamp, **change, "version": 2, "updated_at": changed["updated_at"]}
    assert datetime.fromisoformat(changed["updated_at"]) > datetime.fromisoformat(
        lamp["updated_at"]
    )
    assert await read(client, lamp) == changed


@pytest.mark.parametrize("body", [{}, {"colour": "red"}, {"version": 9}], ids=str)
async def test_patch_with_nothing_to_change_leaves_the_item_alone(
    client: httpx.AsyncClient, body: dict[str, Any]
) -> None:
    item = await create(client)
    answer = await client.patch(f"/items/{item['id']}", json=body)

    assert answer.status_code == 200
    assert answer.json() == item == await read(client, item)


async def test_the_version_grows_by_one_with_each_change(client: httpx.AsyncClient) -> None:
    item = await create(client)
    address = f"/items/{item['id']}"
    for version, price in enumerate([1, 2, 3], start=2):
        answer = await client.patch(address, json={"price": price})
        assert answer.json()["version"] == version


async def test_delete_deactivates_once_and_patch_undoes_it(client: httpx.AsyncClient) -> None:
    item = await create(client)
    address = f"/items/{item['id']}"

    first = await client.delete(address)
    deleted = await read(client, item)
    again = await client.delete(address)

    assert (first.status_code, first.content) == (204, b"")
    assert deleted == {
        **item,
        "is_active": False,
        "version": 2,
        "updated_at": deleted["updated_at"],
    }
    assert again.status_code == 204
    assert await read(client, item) == deleted

    undone = (await client.patch(address, json={"is_active": True})).json()
    assert (undone["is_active"], undone["version"]) == (True, 3)


async def test_permanent_delete_removes_the_item_and_no_other(client: httpx.AsyncClient) -> None:
    item, other = await create(client), await create(client)
    address = f"/items/{item['id']}?permanent=true"
    answer = await client.delete(address)

    assert (answer.status_code, answer.content) == (204, b"")
    assert (await client.get(f"/items/{item['id']}")).status_code == 404
    assert (await client.delete(address)).status_code == 404
    assert await read(client, other) == other


async def test_a_change_touches_no_other_item(client: httpx.AsyncClient) -> None:
    items = [await create(client, name=f"Thing {n}") for n in range(3)]
    address = f"/items/{items[1]['id']}"
    await client.put(address, json=LAMP)
    await client.patch(address, json={"price": 1})
    await client.delete(address)

    assert await read(client, items[0]) == items[0]
    assert await read(client, items[2]) == items[2]


async def test_head_is_get_without_the_body(client: httpx.AsyncClient) -> None:
    item = await create(client)
    address = f"/items/{item['id']}"
    head, get = await client.head(address), await client.get(address)

    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-type"] == get.headers["content-type"] == "application/json"
    assert head.headers["content-length"] == str(len(get.content))


def test_a_synchronous_client_does_the_same(settings: Settings) -> None:
    with TestClient(create_app(settings)) as client:
        answer = client.post("/items", json=LAMP)
        address = answer.headers["location"]

        assert client.get(address).json() == answer.json()
        assert client.patch(address, json={"price": 5}).json()["price"] == 5
        assert client.get("/items?sort=-id").json()["items"][0]["price"] == 5
        assert client.delete(f"{address}?permanent=true").status_code == 204
        assert client.get(address).status_code == 404
