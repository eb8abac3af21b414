"""The list of items over HTTP: pages, totals, search and sorts."""

from collections.abc import Iterable
from itertools import product
from typing import Any

import httpx2 as httpx
import pytest
from fastapi import FastAPI

from service.crud import item as crud
from service.database.engine import transactional
from service.settings import Settings
from service.state import state_of
from tests.support.apps import tolerate_locks
from tests.support.lists import ids_of, in_order
from tests.support.problems import check_refused
from tests.support.samples import LAMP

# Names, prices and flags repeat, so that every sort has ties, and some prices are NULL.
STOCK: list[dict[str, Any]] = [
    {"name": "Torch", "price": 20, "is_active": True},
    {"name": "Lamp", "is_active": False},
    {"name": "Lamp", "price": 5, "is_active": True},
    {"name": "Candle", "price": 20, "is_active": True},
    {"name": "Torch", "is_active": True},
    {"name": "Lamp", "price": 5, "is_active": False},
    {"name": "Bulb", "price": 0, "is_active": True},
]
SORTS = ["id", "name", "price", "created_at", "updated_at"]
THING = {"name": "Thing"}


@pytest.fixture
def settings(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    return tolerate_locks(settings, monkeypatch)


async def store(app: FastAPI, rows: Iterable[dict[str, Any]]) -> None:
    async with transactional(state_of(app).engine).begin() as conn:
        await crud.create_many(conn, list(rows))


async def fetch(client: httpx.AsyncClient, **params: Any) -> Any:
    """Return a page of the list."""
    answer = await client.get("/items", params=params)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def found(client: httpx.AsyncClient, q: str) -> list[str]:
    return [item["name"] for item in (await fetch(client, q=q, per_page=100))["items"]]


async def test_an_empty_list_is_an_empty_page(client: httpx.AsyncClient) -> None:
    assert await fetch(client) == {
        "items": [],
        "page": 1,
        "per_page": 20,
        "total": 0,
        "total_relation": "eq",
        "pages": 0,
        "next_cursor": None,
    }


async def test_a_list_shows_an_item_as_a_read_does(client: httpx.AsyncClient) -> None:
    item = (await client.post("/items", json={**LAMP, "description": "Warm"})).json()

    assert (await fetch(client))["items"] == [item]


async def test_pages_divide_the_list(client: httpx.AsyncClient, app: FastAPI) -> None:
    await store(app, [THING] * 45)
    for params, ids, pages in [
        ({}, range(1, 21), 3),
        ({"page": 2}, range(21, 41), 3),
        ({"page": 3}, range(41, 46), 3),
        ({"page": 4}, [], 3),
        ({"per_page": 1, "page": 45}, [45], 45),
        ({"per_page": 1, "page": 46}, [], 45),
        ({"per_page": 44, "page": 2}, [45], 2),
        ({"per_page": 45}, range(1, 46), 1),
        ({"per_page": 100}, range(1, 46), 1),
        ({"per_page": 100, "page": 10_000}, [], 1),
        ({"per_page": 1, "page": 1_000_000}, [], 45),
    ]:
        page = await fetch(client, **params)

        assert ids_of(page["items"]) == list(ids)
        assert (page["total"], page["total_relation"], page["pages"]) == (45, "eq", pages)
        assert page["page"] == params.get("page", 1)
        assert page["per_page"] == params.get("per_page", 20)


@pytest.mark.parametrize(
    "params",
    [{"page": 1_000_001, "per_page": 1}, {"page": 10_001, "per_page": 100}, {"page": 50_001}],
    ids=str,
)
async def test_a_page_too_deep_is_refused_with_the_reason(
    client: httpx.AsyncClient, params: dict[str, int]
) -> None:
    (error,) = check_refused(await client.get("/items", params=params), "page")

    assert "page * per_page" in error["detail"]
    assert "1000000" in error["detail"]


async def test_count_chooses_how_the_total_is_counted(
    client: httpx.AsyncClient, app: FastAPI
) -> None:
    await store(app, [THING] * 10_000)
    page = await fetch(client, per_page=30)
    assert (page["total"], page["total_relation"], page["pages"]) == (10_000, "eq", 334)

    await store(app, [THING] * 101)
    for count, totals in [
        ("capped", (10_000, "gte", 100)),
        ("exact", (10_101, "eq", 102)),
        ("none", (None, None, None)),
    ]:
        params: dict[str, Any] = {"count": count, "per_page": 100}
        first = await fetch(client, **params)
        second = await fetch(client, **params, cursor=first["next_cursor"])
        beyond = await fetch(client, **params, page=101)
        last = await fetch(client, **params, page=102)
        searched = await fetch(client, **params, q="thing")
        active = await fetch(client, **params, is_active=True)

        for page in (first, second, beyond, last, searched, active):
            assert (page["total"], page["total_relation"], page["pages"]) == totals
        link = (await client.get("/items", params=params)).headers["link"]
        assert ('rel="last"' in link) == (count == "exact")
        # The last two pages are beyond the total of "capped".
        assert (len(beyond["items"]), beyond["next_cursor"] is None) == (100, False)
        assert (ids_of(last["items"]), last["next_cursor"]) == ([10_101], None)


async def test_another_count_is_refused(client: httpx.AsyncClient) -> None:
    for count in ("", "all", "Exact", "0"):
        check_refused(await client.get("/items", params={"count": count}), "count")


async def test_a_deleted_item_moves_between_the_filters(client: httpx.AsyncClient) -> None:
    address = (await client.post("/items", json=LAMP)).headers["location"]
    await client.delete(address)

    assert (await fetch(client))["total"] == 1
    assert (await fetch(client, is_active=False))["total"] == 1
    assert (await fetch(client, is_active=True))["total"] == 0

    await client.delete(f"{address}?permanent=true")

    assert (await fetch(client))["total"] == 0


async def test_q_finds_exactly_the_names_that_contain_it(
    client: httpx.AsyncClient, app: FastAPI
) -> None:
    """`q` is literal, though it holds wildcards of LIKE or spaces, and ignores case."""
    names = ["".join(pair) for n in (1, 2) for pair in product("%_\\aAéÉ", repeat=n)]
    await store(app, ({"name": name} for name in names))
    for q in ("".join(pair) for n in (0, 1, 2) for pair in product("%_\\aÉ ", repeat=n)):
        assert await found(client, q) == [name for name in names if q.lower() in name.lower()]


async def test_q_has_at_most_255_characters(client: httpx.AsyncClient) -> None:
    assert await found(client, "x" * 255) == []
    check_refused(await client.get("/items", params={"q": "x" * 256}), "q")


async def test_q_searches_names_only(client: httpx.AsyncClient) -> None:
    await client.post("/items", json={**LAMP, "description": "Warm"})

    assert await found(client, "warm") == []


@pytest.mark.parametrize("sort", SORTS)
async def test_a_sort_breaks_ties_by_id_and_a_minus_reverses_it(
    client: httpx.AsyncClient, app: FastAPI, sort: str
) -> None:
    await store(app, STOCK)  # in one transaction, so that all times are equal
    await store(app, reversed(STOCK))
    ascending = in_order((await fetch(client))["items"], sort)

    assert (await fetch(client, sort=sort))["items"] == ascending
    assert (await fetch(client, sort=f"-{sort}"))["items"] == ascending[::-1]


async def test_the_default_sort_is_by_id(client: httpx.AsyncClient, app: FastAPI) -> None:
    await store(app, STOCK)
    await client.patch("/items/1", json={"price": 1})  # moves the row within the table

    assert ids_of((await fetch(client))["items"]) == [1, 2, 3, 4, 5, 6, 7]


async def test_filter_search_sort_and_page_work_together(
    client: httpx.AsyncClient, app: FastAPI
) -> None:
    await store(app, STOCK)
    page = await fetch(client, is_active=True, q="L", sort="-price", page=2, per_page=2)

    assert [item["name"] for item in page["items"]] == ["Bulb"]
    assert (page["total"], page["pages"]) == (3, 2)
