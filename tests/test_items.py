"""Items over HTTP: create, read, replace, change, delete."""

from datetime import datetime
from typing import Any

import httpx2 as httpx

LAMP = {"name": "Lamp", "description": "Warm", "price": 29.99, "is_active": False}


async def create(client: httpx.AsyncClient, **values: Any) -> Any:
    answer = await client.post("/items", json={"name": "Thing", **values})
    assert answer.status_code == 201
    return answer.json()


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
