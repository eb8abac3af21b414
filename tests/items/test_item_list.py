"""The list of items over HTTP: pages, filters, search, sorts and the capped total."""

from collections.abc import Iterable
from itertools import product
from typing import Any

import httpx2 as httpx
import pytest
from fastapi import FastAPI

from service.crud import item as crud
from service.database import transactional

# Names, prices and flags repeat, so that every sort has ties, and some prices are NULL.
STOCK = [
    {"name": name, "price": price, "is_active": is_active}
    for name, price, is_active in [
        ("Torch", 20, True),
        ("Lamp", None, False),
        ("Lamp", 5, True),
        ("Candle", 20, True),
        ("Torch", None, True),
        ("Lamp", 5, False),
        ("Bulb", 0, True),
    ]
]
SORTS = ["id", "name", "price", "created_at"]


async def store(app: FastAPI, rows: Iterable[dict[str, Any]]) -> None:
    async with transactional(app.state.engine).begin() as conn:
        await crud.create_many(conn, list(rows))


async def store_names(app: FastAPI, *names: str) -> None:
    await store(app, ({"name": name} for name in names))


async def fetch(client: httpx.AsyncClient, **params: Any) -> Any:
    answer = await client.get("/items", params=params)
    assert answer.status_code == 200
    return answer.json()


async def found(client: httpx.AsyncClient, q: str) -> list[str]:
    return [item["name"] for item in (await fetch(client, q=q, per_page=100))["items"]]


async def test_an_empty_list_is_a_page_of_nothing(client: httpx.AsyncClient) -> None:
    assert await fetch(client) == {
        "items": [],
        "page": 1,
        "per_page": 20,
        "total": 0,
        "total_relation": "eq",
        "pages": 0,
        "next_cursor": None,
    }


async def test_a_list_holds_the_items_as_they_read_alone(client: httpx.AsyncClient) -> None:
    body = {"name": "Lamp", "description": "Warm", "price": 29.99}
    item = (await client.post("/items", json=body)).json()

    assert (await fetch(client))["items"] == [item]


@pytest.mark.parametrize(
    ("params", "ids", "pages"),
    [
        ({}, range(1, 21), 3),
        ({"page": 2}, range(21, 41), 3),
        ({"page": 3}, range(41, 46), 3),
        ({"per_page": 1, "page": 45}, [45], 45),
        ({"per_page": 44}, range(1, 45), 2),
        ({"per_page": 45}, range(1, 46), 1),
        ({"per_page": 100}, range(1, 46), 1),
    ],
    ids=str,
)
async def test_pages_divide_the_list(
    client: httpx.AsyncClient, app: FastAPI, params: dict[str, int], ids: Iterable[int], pages: int
) -> None:
    await store_names(app, *["Thing"] * 45)
    page = await fetch(client, **params)

    assert [item["id"] for item in page["items"]] == list(ids)
    assert (page["total"], page["total_relation"], page["pages"]) == (45, "eq", pages)
    assert (page["page"], page["per_page"]) == (params.get("page", 1), params.get("per_page", 20))


@pytest.mark.parametrize(("page", "per_page"), [(2, 20), (1_000_000, 1), (10_000, 100)])
async def test_a_page_past_the_end_is_empty(
    client: httpx.AsyncClient, app: FastAPI, page: int, per_page: int
) -> None:
    await store_names(app, "One", "Two")

    past_the_end = await fetch(client, page=page, per_page=per_page)

    assert past_the_end["items"] == []
    assert past_the_end["total"] == 2


@pytest.mark.parametrize(
    ("page", "per_page"), [(1_000_001, 1), (10_001, 100), (50_001, None), (2**63 - 1, 100)]
)
async def test_a_page_too_deep_is_refused_with_the_reason(
    client: httpx.AsyncClient, page: int, per_page: int | None
) -> None:
    params = {"page": page} | ({"per_page": per_page} if per_page else {})
    answer = await client.get("/items", params=params)
    (error,) = answer.json()["errors"]

    assert answer.status_code == 422
    assert error["parameter"] == "page"
    assert "page * per_page" in error["detail"]
    assert "1000000" in error["detail"]


@pytest.mark.parametrize(
    ("rows", "total", "relation"),
    [
        (9_999, 9_999, "eq"),
        (10_000, 10_000, "eq"),
        (10_001, 10_000, "gte"),
        (12_000, 10_000, "gte"),
    ],
)
async def test_the_total_is_exact_up_to_10000_and_stops_there(
    client: httpx.AsyncClient, app: FastAPI, rows: int, total: int, relation: str
) -> None:
    await store_names(app, *["Thing"] * rows)
    for params in ({}, {"q": "thing"}, {"is_active": True}):
        page = await fetch(client, per_page=30, **params)

        assert (page["total"], page["total_relation"]) == (total, relation)
        assert page["pages"] == 334


async def test_pages_past_the_capped_total_still_hold_items(
    client: httpx.AsyncClient, app: FastAPI
) -> None:
    await store_names(app, *["Thing"] * 10_001)
    page = await fetch(client, page=101, per_page=100)

    assert [item["id"] for item in page["items"]] == [10_001]
    assert (page["total"], page["total_relation"]) == (10_000, "gte")


@pytest.mark.parametrize(
    ("is_active", "ids"), [(None, [1, 2, 3, 4, 5, 6, 7]), (True, [1, 3, 4, 5, 7]), (False, [2, 6])]
)
async def test_is_active_filters_and_without_it_all_show(
    client: httpx.AsyncClient, app: FastAPI, is_active: bool | None, ids: list[int]
) -> None:
    await store(app, STOCK)
    page = await fetch(client, **({} if is_active is None else {"is_active": is_active}))

    assert [item["id"] for item in page["items"]] == ids
    assert page["total"] == len(ids)


async def test_a_deleted_item_moves_between_the_filters(client: httpx.AsyncClient) -> None:
    address = (await client.post("/items", json={"name": "Lamp"})).headers["location"]
    await client.delete(address)

    assert (await fetch(client))["total"] == 1
    assert (await fetch(client, is_active=False))["total"] == 1
    assert (await fetch(client, is_active=True))["total"] == 0

    await client.delete(f"{address}?permanent=true")

    assert (await fetch(client))["total"] == 0


@pytest.mark.parametrize(
    ("q", "names"),
    [
        ("50%", ["50% off"]),
        ("%", ["50% off"]),
        ("_", ["snake_case"]),
        ("e_c", ["snake_case"]),
        ("\\", ["back\\slash"]),
        ("\\%", []),
        ("\\\\", []),
        ("%%", []),
        ("k\\s", ["back\\slash"]),
        ("' OR 1=1 --", []),
        ("s", ["snake_case", "back\\slash"]),
        ("", ["50% off", "snake_case", "back\\slash", "plain"]),
    ],
)
async def test_q_is_taken_literally(
    client: httpx.AsyncClient, app: FastAPI, q: str, names: list[str]
) -> None:
    await store_names(app, "50% off", "snake_case", "back\\slash", "plain")

    assert await found(client, q) == names


async def test_q_finds_exactly_the_names_it_stands_in(
    client: httpx.AsyncClient, app: FastAPI
) -> None:
    """Every needle of one or two awkward characters, in every such name."""
    texts = ["".join(letters) for n in (1, 2) for letters in product("%_\\aAéÉ", repeat=n)]
    await store_names(app, *texts)
    for q in texts:
        assert await found(client, q) == [name for name in texts if q.lower() in name.lower()]


@pytest.mark.parametrize("q", ["CAFÉ", "café", "Café", "fÉ c"])
async def test_q_ignores_case_in_every_script(
    client: httpx.AsyncClient, app: FastAPI, q: str
) -> None:
    await store_names(app, "Café Crème", "CAFÉ CRÈME", "cafe creme")

    assert await found(client, q) == ["Café Crème", "CAFÉ CRÈME"]


@pytest.mark.parametrize(("q", "name"), [("ΛΆΜΠΑ", "λάμπα"), ("лампа", "ЛАМПА"), ("灯", "台灯")])
async def test_q_knows_letters_beyond_latin(
    client: httpx.AsyncClient, app: FastAPI, q: str, name: str
) -> None:
    await store_names(app, name, "Lamp")

    assert await found(client, q) == [name]


async def test_q_searches_names_only(client: httpx.AsyncClient) -> None:
    await client.post("/items", json={"name": "Lamp", "description": "Warm"})

    assert await found(client, "warm") == []


def in_order(items: list[Any], key: str) -> list[Any]:
    """By `key` with NULLs last, ties by id."""
    return sorted(items, key=lambda item: (item[key] is None, item[key] or 0, item["id"]))


@pytest.mark.parametrize("key", SORTS)
async def test_every_sort_breaks_ties_by_id_and_has_its_exact_reverse(
    client: httpx.AsyncClient, app: FastAPI, key: str
) -> None:
    await store(app, STOCK)  # what is stored together has one created_at
    await store(app, reversed(STOCK))
    expected = in_order((await fetch(client))["items"], key)

    assert (await fetch(client, sort=key))["items"] == expected
    assert (await fetch(client, sort=f"-{key}"))["items"] == expected[::-1]


async def test_the_default_sort_is_by_id(client: httpx.AsyncClient, app: FastAPI) -> None:
    await store(app, STOCK)
    await client.patch("/items/1", json={"price": 1})  # moves the row within the table

    assert [item["id"] for item in (await fetch(client))["items"]] == [1, 2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize("sort", [*SORTS, *(f"-{key}" for key in SORTS)])
async def test_pages_of_a_sort_hold_each_item_once(
    client: httpx.AsyncClient, app: FastAPI, sort: str
) -> None:
    await store(app, STOCK)
    whole = (await fetch(client, sort=sort))["items"]
    pages = [await fetch(client, sort=sort, page=n, per_page=2) for n in range(1, 5)]

    assert [item for page in pages for item in page["items"]] == whole


async def test_filter_search_sort_and_page_work_together(
    client: httpx.AsyncClient, app: FastAPI
) -> None:
    await store(app, STOCK)
    page = await fetch(client, is_active=True, q="L", sort="-price", page=2, per_page=2)

    assert [item["name"] for item in page["items"]] == ["Bulb"]
    assert (page["total"], page["pages"]) == (3, 2)
