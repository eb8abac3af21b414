"""Many items at once: in order, all or none."""

import asyncio
import json
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import httpx2 as httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import text

from service.settings import Settings

LAMP: Any = {"name": "Lamp"}
MOST = 1000  # items
DEFAULTS = {"description": None, "price": None, "is_active": True}
JSON = {"Content-Type": "application/json"}


async def post(client: httpx.AsyncClient, items: Any) -> httpx.Response:
    return await client.post("/items/bulk", json={"items": items})


async def create(client: httpx.AsyncClient, items: Any) -> list[Any]:
    answer = await post(client, items)
    assert answer.status_code == 201, answer.text
    assert answer.json().keys() == {"items"}
    created: list[Any] = answer.json()["items"]
    return created


async def stored(client: httpx.AsyncClient) -> int:
    """How many items there are."""
    total: int = (await client.get("/items?count=exact")).json()["total"]
    return total


def pointers(answer: httpx.Response) -> list[str]:
    """Where the faults of the body are."""
    assert answer.status_code == 422, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["type"] == "urn:items-service:invalid-input"
    assert all(error["detail"] for error in answer.json()["errors"])
    return [error["pointer"] for error in answer.json()["errors"]]


def sized(size: int) -> bytes:
    """A body of two items that has so many bytes."""
    return b'{"items": [{"name": "Lamp"}, {"name": "Torch"}]}'.ljust(size)


def thing(number: int) -> Any:
    """Every number's is another, and each leaves out something else."""
    item: dict[str, Any] = {"name": f"Thing {-number}"}
    if number % 2:
        item["description"] = f"Nº {number}\n💡"
    if number % 3:
        item["price"] = number / 4
    if number % 5 == 0:
        item["is_active"] = number % 10 == 0
    return item


@pytest.mark.parametrize("number", [1, 2, MOST])
async def test_items_come_back_in_their_order_with_ascending_ids(
    client: httpx.AsyncClient, number: int
) -> None:
    sent = [thing(n) for n in range(number)]
    answer = await post(client, sent)
    items = answer.json()["items"]

    assert answer.status_code == 201
    assert answer.headers["content-type"] == "application/json"
    assert [{name: item[name] for name in (*DEFAULTS, "name")} for item in items] == [
        DEFAULTS | item for item in sent
    ]
    ids = [item["id"] for item in items]
    assert ids == sorted(set(ids))
    assert {item["version"] for item in items} == {1}
    assert await stored(client) == number


async def test_items_are_stored_as_they_were_answered(client: httpx.AsyncClient) -> None:
    items = await create(client, [thing(n) for n in range(250)])
    pages = [
        (await client.get(f"/items?per_page=100&page={page}")).json()["items"]
        for page in range(1, 4)
    ]

    assert [item for page in pages for item in page] == items
    assert (await client.get(f"/items/{items[249]['id']}")).json() == items[249]


async def test_items_of_a_bulk_are_read_like_any_other(
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
    async with app.state.engine.connect() as conn:
        prices = await conn.scalars(text("SELECT price FROM items ORDER BY id"))
        assert list(prices) == [Decimal("4503599627.37"), Decimal("0.10")]


async def test_bulks_at_once_keep_their_own_order(client: httpx.AsyncClient) -> None:
    made = [[{"name": f"{bulk}-{n}"} for n in range(100)] for bulk in range(20)]
    bulks, single = await asyncio.gather(
        asyncio.gather(*(create(client, items) for items in made)),
        client.post("/items", json=LAMP),
    )

    for sent, items in zip(made, bulks, strict=True):
        assert [item["name"] for item in items] == [item["name"] for item in sent]
        assert [item["id"] for item in items] == sorted(item["id"] for item in items)
    ids = {item["id"] for items in bulks for item in items} | {single.json()["id"]}
    assert len(ids) == await stored(client) == 2001


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"items": []}, ["#/items"]),
        ({"items": [LAMP] * (MOST + 1)}, ["#/items"]),
        ({"items": [0] * 100_000}, ["#/items"]),
        ({}, ["#/items"]),
        ({"items": None}, ["#/items"]),
        ({"items": LAMP}, ["#/items"]),
        ({"items": "Lamp"}, ["#/items"]),
        ({"Items": [LAMP]}, ["#/items"]),
        ([LAMP], ["#"]),
        ("Lamp", ["#"]),
        ({"items": [LAMP, None, "Lamp", [LAMP]]}, ["#/items/1", "#/items/2", "#/items/3"]),
        ({"items": [LAMP, LAMP, LAMP, {**LAMP, "price": -1}]}, ["#/items/3/price"]),
        ({"items": [LAMP] * (MOST - 1) + [{"name": "n" * 256}]}, [f"#/items/{MOST - 1}/name"]),
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
async def test_a_body_that_is_wrong_anywhere_stores_nothing_and_says_where(
    client: httpx.AsyncClient, body: Any, expected: list[str]
) -> None:
    assert pointers(await client.post("/items/bulk", json=body)) == expected
    assert await stored(client) == 0


async def test_every_one_of_a_thousand_faults_is_told(client: httpx.AsyncClient) -> None:
    answer = await post(client, [{"name": ""}] * MOST)

    assert pointers(answer) == [f"#/items/{n}/name" for n in range(MOST)]
    assert await stored(client) == 0


@pytest.mark.parametrize(
    "content",
    ["", "{", '{"items": [{"name": "Lamp"},]}', '{"items": [{"name": "L", "price": NaN}]}'],
)
async def test_what_is_not_json_is_refused(client: httpx.AsyncClient, content: str) -> None:
    assert pointers(await client.post("/items/bulk", content=content, headers=JSON)) == ["#"]
    assert await stored(client) == 0


@pytest.mark.parametrize("query", ["dry_run=1", "page=1", "colour", "items="])
async def test_unknown_query_parameters_are_refused(client: httpx.AsyncClient, query: str) -> None:
    answer = await client.post(f"/items/bulk?{query}", json={"items": [LAMP]})

    assert answer.status_code == 422
    assert [error["parameter"] for error in answer.json()["errors"]] == [query.partition("=")[0]]
    assert await stored(client) == 0


@pytest.mark.parametrize(
    "content_type",
    [None, "", "text/plain", "application/x-www-form-urlencoded", "application/x-ndjson", "json"],
)
async def test_another_content_type_is_refused(
    client: httpx.AsyncClient, content_type: str | None
) -> None:
    headers = {} if content_type is None else {"Content-Type": content_type}
    answer = await client.post("/items/bulk", content=sized(100), headers=headers)

    assert answer.status_code == 422
    assert [error["parameter"] for error in answer.json()["errors"]] == ["Content-Type"]
    assert await stored(client) == 0


async def in_chunks(content: bytes) -> AsyncIterator[bytes]:
    """Without saying beforehand how much will come."""
    for start in range(0, len(content), 65_536):
        yield content[start : start + 65_536]


@pytest.mark.parametrize("is_chunked", [False, True])
@pytest.mark.parametrize(("size", "status"), [(16 * 1024**2, 201), (16 * 1024**2 + 1, 413)])
async def test_a_bulk_may_have_16_mib(
    client: httpx.AsyncClient, size: int, status: int, is_chunked: bool
) -> None:
    content = in_chunks(sized(size)) if is_chunked else sized(size)
    answer = await client.post("/items/bulk", content=content, headers=JSON)

    assert answer.status_code == status
    assert await stored(client) == (2 if status == 201 else 0)


async def test_each_limit_is_for_its_own_requests(
    client: httpx.AsyncClient, settings: Settings
) -> None:
    async def statuses(size: int) -> list[int]:
        bodies = {"/items": b'{"name": "Lamp"}'.ljust(size), "/items/bulk": sized(size)}
        return [
            (await client.post(path, content=content, headers=JSON)).status_code
            for path, content in bodies.items()
        ]

    settings.max_body_bytes, settings.max_bulk_bytes = 100, 200
    assert [await statuses(size) for size in (100, 101, 200, 201)] == [
        [201, 201],
        [413, 201],
        [413, 201],
        [413, 413],
    ]
    settings.max_body_bytes, settings.max_bulk_bytes = 200, 100
    assert [await statuses(size) for size in (100, 101)] == [[201, 201], [201, 413]]


async def test_a_fault_that_only_the_database_finds_stores_nothing(
    client: httpx.AsyncClient, app: FastAPI
) -> None:
    items = [LAMP] * 500 + [{"name": "Cursed"}] + [LAMP] * 499
    async with app.state.engine.connect() as conn:
        await conn.execute(text("ALTER TABLE items ADD CONSTRAINT c CHECK (name <> 'Cursed')"))
        try:
            refused, fine = await asyncio.gather(post(client, items), post(client, [LAMP] * 3))
        finally:
            await conn.execute(text("ALTER TABLE items DROP CONSTRAINT c"))

    assert pointers(refused) == ["#"]
    assert "Cursed" not in refused.text
    assert fine.status_code == 201
    assert await stored(client) == 3
    assert len(await create(client, items)) == MOST
