"""Text is stored and searched in one Unicode normal form (NFC), on every way in."""

import httpx2 as httpx
import pytest

from tests.support.lists import fetch

COMPOSED, DECOMPOSED = "Caf\u00e9", "Cafe\u0301"


async def test_each_way_in_stores_the_normal_form(client: httpx.AsyncClient) -> None:
    body = {"name": DECOMPOSED, "description": DECOMPOSED}
    item = (await client.post("/items", json=body)).json()
    (bulk,) = (await client.post("/items/bulk", json={"items": [body]})).json()["items"]
    address = f"/items/{item['id']}"
    stored = [
        item,
        bulk,
        (await client.patch(address, json=body)).json(),
        (await client.put(address, json=body)).json(),
    ]

    assert {(each["name"], each["description"]) for each in stored} == {(COMPOSED, COMPOSED)}


@pytest.mark.parametrize("q", [COMPOSED, DECOMPOSED])
async def test_each_spelling_of_an_accent_finds_the_others(
    client: httpx.AsyncClient, q: str
) -> None:
    for name in (COMPOSED, DECOMPOSED):
        await client.post("/items", json={"name": name})
    assert (await fetch(client, q=q))["total"] == 2


async def test_a_name_is_as_long_as_its_normal_form(client: httpx.AsyncClient) -> None:
    answer = await client.post("/items", json={"name": "e\u0301" * 255})
    assert (answer.status_code, len(answer.json()["name"])) == (201, 255)
