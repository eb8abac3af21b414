"""The export of items: which items, and how NDJSON and CSV show them."""

import csv
import io
import json
from decimal import Decimal
from typing import Any

import httpx2 as httpx
import pytest
from fastapi import FastAPI

from service.crud import listing
from tests.support.apps import execute
from tests.support.lists import ids_of, store, store_many
from tests.support.problems import check_problem, check_refused
from tests.support.samples import LAMP

EXPORT = "/items/export"
HEAD_LINE = "id,name,description,price,is_active,version,created_at,updated_at"
TYPES = {"ndjson": "application/x-ndjson", "csv": "text/csv; charset=utf-8"}

AWKWARD: list[dict[str, Any]] = [
    {"name": 'comma, "quoted"', "description": '"', "price": Decimal("29.99")},
    {"name": "line\nfeed", "description": "a\r\nb\rc\n"},
    {"name": "\u2028\x85\x0b\x0c\x1c é 台灯 \U0001f4a1", "description": "\x01\x7f\u200b\ufeff"},
    {"name": "'quoted'", "description": "'=1"},
    {"name": " =1", "description": "1 + 1 - 2 @ home\t=x\r=y\n=z"},
    {"name": "none", "is_active": False},
    {"name": "empty", "description": "", "price": Decimal(0)},
    {"name": "expensive", "description": "\\N \\. ;|\t", "price": Decimal("9999999999.99")},
    {"name": "null", "description": "NaN", "price": Decimal("0.1")},
]
STOCK: list[dict[str, Any]] = [
    {"name": "Lamp", "price": 5, "is_active": True},
    {"name": "Lamp 50%", "price": None, "is_active": False},
    {"name": "Torch", "price": Decimal("19.99"), "is_active": True},
    {"name": "Bulb", "price": 0, "is_active": False},
]


async def exported(client: httpx.AsyncClient, **params: Any) -> list[Any]:
    """Return the items of an export as NDJSON."""
    answer = await client.get(EXPORT, params=params)
    assert answer.status_code == 200
    *lines, rest = answer.content.split(b"\n")
    assert rest == b""
    return [json.loads(line) for line in lines]


async def exported_as_csv(client: httpx.AsyncClient) -> list[list[str]]:
    """Return the cells of an export as CSV, without the head line, which must be right."""
    answer = await client.get(EXPORT, params={"format": "csv"})
    assert answer.text.startswith(f"{HEAD_LINE}\r\n")
    _, *rows = csv.reader(io.StringIO(answer.content.decode(), newline=""), strict=True)
    return rows


def as_cells(item: Any) -> list[str]:
    """Return the cells that CSV has for an item, which is given as JSON has it."""
    price = None if item["price"] is None else f"{item['price']:.2f}"
    item = {**item, "price": price, "is_active": str(item["is_active"]).lower()}
    return ["" if value is None else str(value) for value in item.values()]


async def ask_for(client: httpx.AsyncClient, *accept: str, **params: str) -> httpx.Response:
    """Request an export with these lines of Accept, or without any."""
    lines = [(b"Accept", line.encode("latin-1")) for line in accept]
    request = client.build_request("GET", EXPORT, params=params, headers=lines)
    if not accept:
        del request.headers["accept"]
    return await client.send(request)


def check_form(answer: httpx.Response, form: str) -> None:
    """Assert that `answer` is an export in this form."""
    assert answer.status_code == 200
    assert answer.headers["content-type"] == TYPES[form]
    assert answer.headers["content-disposition"] == f'attachment; filename="items.{form}"'
    assert answer.headers["vary"] == "Accept, Authorization"


async def test_accept_chooses_the_form(client: httpx.AsyncClient) -> None:
    for accept, form in [
        ("", "ndjson"),
        ("*/*", "ndjson"),
        ("application/x-ndjson", "ndjson"),
        ("application/*", "ndjson"),
        ("TEXT/CSV", "csv"),
        ("Text/*;Q=0.5", "csv"),
        ("text/csv, application/x-ndjson", "ndjson"),
        ("text/csv;q=0.5, application/x-ndjson;q=0.4", "csv"),
        ("text/csv;q=0.4, */*;q=0.5", "ndjson"),
        ("*/*;q=0.9, text/*;q=0.2, application/x-ndjson;q=0.1", "csv"),
        ("text/csv;q=0, */*", "ndjson"),
        ("application/x-ndjson;q=0, */*;q=0.001", "csv"),
        ("text/*;q=0, text/csv", "csv"),
        ("text/csv; charset=utf-8; q=0.9, application/json", "csv"),
        ("\ttext/csv ; q=1 ,, ", "csv"),
        ("text/csv;q=high, application/x-ndjson;q=0.1", "ndjson"),
    ]:
        check_form(await ask_for(client, accept), form)

    check_form(await ask_for(client), "ndjson")
    check_form(await ask_for(client, "application/json", "text/csv"), "csv")


async def test_format_overrides_accept(client: httpx.AsyncClient) -> None:
    for form in TYPES:
        for accept in ("text/csv", "application/x-ndjson", "image/png", "*/*;q=0"):
            check_form(await ask_for(client, accept, format=form), form)


async def test_an_unavailable_form_is_a_406(client: httpx.AsyncClient) -> None:
    for accept in [
        *("application/json", "text/html, image/*", "text/csvs", "csv"),
        *("*/*;q=0", "text/csv;q=0.000", "text/csv;q=0, text/*"),
        "application/*;q=0, text/*;q=0, */*",
    ]:
        problem = check_problem(await ask_for(client, accept), 406, "not-acceptable")

        assert "application/x-ndjson" in problem["detail"]
        assert "text/csv" in problem["detail"]


async def test_a_malformed_accept_causes_no_error_of_the_service(client: httpx.AsyncClient) -> None:
    for accept in [
        *(",", ";;;", ";q=1", "q=1", "*", "*/csv", "\xff\xfe", 'text/csv;a="x, y;q=0'),
        *(f"text/csv;q={quality}" for quality in ("", "nan", "-1", "inf", "1e999", "½")),
        *("text/csv," * 5000, "text/csv" + ";q=1" * 5000),
    ]:
        assert (await ask_for(client, accept)).status_code in (200, 406)


async def test_a_bad_parameter_and_one_of_the_list_alone_are_refused_by_name(
    client: httpx.AsyncClient,
) -> None:
    for query in [
        *("page=1", "per_page=20", "sort=id", "cursor=", "count=none", "colour=red"),
        *("format=xml", "format=CSV", "format=", "is_active=maybe", "q=%00", "q=%ff"),
        *("price_min=-1", "price_max=NaN", "created_after=yesterday", "updated_after=0"),
    ]:
        check_refused(await client.get(f"{EXPORT}?{query}"), query.partition("=")[0])


async def test_ndjson_shows_each_item_as_a_read_does(
    client: httpx.AsyncClient, app: FastAPI
) -> None:
    await store(app, AWKWARD)
    read = [(await client.get(f"/items/{n}")).content for n in range(1, len(AWKWARD) + 1)]

    assert (await client.get(EXPORT)).content == b"".join(line + b"\n" for line in read)


async def test_csv_reads_back_as_the_items(client: httpx.AsyncClient, app: FastAPI) -> None:
    await store(app, AWKWARD)
    items = await exported(client)

    assert len(items) == len(AWKWARD)
    assert await exported_as_csv(client) == [as_cells(item) for item in items]


async def test_csv_quotes_a_cell_that_a_spreadsheet_would_run(
    client: httpx.AsyncClient, app: FastAPI
) -> None:
    cells = [start + rest for start in "=+-@\t\r" for rest in ("", 'cmd|" /C calc"!A0', "1\n=2,3")]
    await store(app, [{"name": f"{cell}x", "description": cell} for cell in cells])

    rows = await exported_as_csv(client)
    assert [row[1:3] for row in rows] == [[f"'{cell}x", f"'{cell}"] for cell in cells]
    items = await exported(client)
    assert [(item["name"], item["description"]) for item in items] == [(f"{c}x", c) for c in cells]


async def test_each_item_comes_once_and_by_id_however_many_batches_they_fill(
    client: httpx.AsyncClient, app: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "EXPORT_BATCH", 3)
    for number in range(8):
        await execute(app, "UPDATE items SET price = 1 WHERE id = 1")  # moves it within the table
        rows = await exported_as_csv(client)

        assert ids_of(await exported(client)) == list(range(1, number + 1))
        assert [int(row[0]) for row in rows] == list(range(1, number + 1))
        await store_many(app, 1)


async def test_an_export_without_a_match_is_empty_or_the_head_line_alone(
    client: httpx.AsyncClient, app: FastAPI
) -> None:
    await store(app, STOCK)
    answers = [await ask_for(client, q="nothing has this name", format=form) for form in TYPES]

    assert [answer.status_code for answer in answers] == [200, 200]
    assert [answer.text for answer in answers] == ["", f"{HEAD_LINE}\r\n"]


async def test_the_filters_are_those_of_the_list(client: httpx.AsyncClient, app: FastAPI) -> None:
    await store(app, STOCK)
    changed = (await client.patch("/items/4", json={"description": "New"})).json()
    created = changed["created_at"]
    for params, wanted in [
        ({"is_active": "true"}, [1, 3]),
        ({"q": "LAMP"}, [1, 2]),
        ({"q": "50%"}, [2]),
        ({"q": ""}, [1, 2, 3, 4]),
        ({"price_min": "5"}, [1, 3]),
        ({"price_max": "5.00"}, [1, 4]),
        ({"price_min": "6", "price_max": "5"}, []),
        ({"q": "l", "is_active": "false", "price_max": "1"}, [4]),
        ({"created_after": created}, []),
        ({"created_after": "2026-01-01T00:00:00Z", "created_before": created}, []),
        ({"updated_after": created}, [4]),
    ]:
        listed = (await client.get("/items", params=params)).json()["items"]

        assert ids_of(listed) == wanted, params
        assert await exported(client, **params) == listed, params


@pytest.mark.parametrize(
    ("query", "accept", "status"),
    [
        ("format=ndjson", "*/*", 200),
        ("format=csv", "*/*", 200),
        ("page=1", "*/*", 422),
        ("", "image/png", 406),
    ],
)
async def test_head_returns_what_get_returns_but_the_body(
    client: httpx.AsyncClient, app: FastAPI, query: str, accept: str, status: int
) -> None:
    await store(app, [LAMP])
    address, headers = f"{EXPORT}?{query}", {"Accept": accept, "X-Request-ID": "same"}
    get = await client.get(address, headers=headers)
    head = await client.head(address, headers=headers)

    assert get.content
    assert (head.status_code, head.content) == (get.status_code, b"") == (status, b"")
    assert head.headers == get.headers
