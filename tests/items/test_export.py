"""The export of items: its forms, its one moment, and clients that are slow, gone or too many."""

import asyncio
import csv
import gc
import io
import json
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack
from decimal import Decimal
from typing import Any

import httpx2 as httpx
import psutil
import pytest
import uvicorn
from fastapi import FastAPI
from fastapi.testclient import TestClient
from pydantic import SecretStr
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from service import database
from service.crud import item as crud
from service.database import transactional
from service.domain.item import Item, ItemFilter
from service.main import create_app
from service.settings import Settings
from tests.support.apps import (
    BIG,
    INSERT_BIG,
    asking,
    execute,
    listening,
    serving,
    status,
    store_big,
    web_client,
)
from tests.support.problems import check_problem
from tests.support.processes import Server, query, running, script
from tests.support.waiting import TIMEOUT, until, wait_until

EXPORT = "/items/export"
HEAD_LINE = "id,name,description,price,is_active,version,created_at,updated_at"
TYPES = {"ndjson": "application/x-ndjson", "csv": "text/csv; charset=utf-8"}
FORMS = list(TYPES)
SLOTS = 2
IN_TRANSACTION = (
    "FROM pg_stat_activity WHERE datname = current_database()"
    " AND application_name = 'items-service' AND state LIKE 'idle in transaction%'"
)

AWKWARD: list[dict[str, Any]] = [
    {"name": 'comma, "quoted"', "description": '"', "price": Decimal("29.99")},
    {"name": "line\nfeed", "description": "a\r\nb\rc\n"},
    {"name": "\u2028\x85\x0b\x0c\x1c é 台灯 \U0001f4a1", "description": "\x01\x7f\u200b\ufeff"},
    {"name": "'quoted'", "description": "'=1"},
    {"name": " =1", "description": "1 + 1 - 2 @ home\t=x\r=y\n=z"},
    {"name": "none", "description": None, "price": None, "is_active": False},
    {"name": "empty", "description": "", "price": Decimal(0)},
    {"name": "dear", "description": "\\N \\. ;|\t", "price": Decimal("9999999999.99")},
    {"name": "null", "description": "NaN", "price": Decimal("0.1")},
]
STOCK: list[dict[str, Any]] = [
    {"name": "Lamp", "price": 5, "is_active": True},
    {"name": "Lamp 50%", "price": None, "is_active": False},
    {"name": "Torch", "price": Decimal("19.99"), "is_active": True},
    {"name": "Bulb", "price": 0, "is_active": False},
]


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """As few slots and connections as will do: one that is not given back is missed."""
    settings.max_exports, settings.pool_size, settings.max_overflow = SLOTS, SLOTS + 1, 0
    return settings


@pytest.fixture
async def server(app: FastAPI) -> AsyncIterator[uvicorn.Server]:
    """The application on a port; asyncio has nothing to complain of afterwards."""
    loop = asyncio.get_running_loop()
    handler = loop.get_exception_handler()
    complaints: list[Any] = []
    loop.set_exception_handler(lambda loop, context: complaints.append(context))
    gc.freeze()  # for a quick collection afterwards, of what the test left only
    async with listening(app) as server:
        yield server
    gc.collect()
    gc.unfreeze()
    loop.set_exception_handler(handler)
    assert complaints == []


@pytest.fixture
async def web(server: uvicorn.Server) -> AsyncIterator[httpx.AsyncClient]:
    """A client over real sockets, which do not hold much."""
    async with web_client(server) as client:
        yield client


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the batches that exports have read from the database."""
    sizes: list[int] = []
    export_items = crud.export_items

    async def read_and_note(conn: AsyncConnection, wanted: ItemFilter) -> AsyncIterator[list[Item]]:
        async for batch in export_items(conn, wanted):
            sizes.append(len(batch))
            yield batch

    monkeypatch.setattr(crud, "export_items", read_and_note)
    return sizes


@pytest.fixture
def impatient(settings: Settings) -> None:
    """A service that does not wait long for a client to read."""
    settings.request_timeout = 0.5


@pytest.fixture(scope="module")
def process(database_url: str) -> Iterator[Server]:
    """`items serve`, with one worker that has one slot."""
    env = {"DATABASE_URL": database_url, "WEB_CONCURRENCY": "1", "MAX_EXPORTS": "1"}
    with running("serve", env=env) as process:
        yield process


async def store(app: FastAPI, rows: Iterable[dict[str, Any]]) -> None:
    async with transactional(app.state.engine).begin() as conn:
        await crud.create_many(conn, list(rows))


async def exported(client: httpx.AsyncClient, **params: Any) -> list[Any]:
    answer = await client.get(EXPORT, params=params)
    assert answer.status_code == 200
    *lines, rest = answer.content.split(b"\n")
    assert rest == b""
    return [json.loads(line) for line in lines]


def ids(items: Iterable[Any]) -> list[int]:
    return [item["id"] for item in items]


def read_csv(answer: httpx.Response) -> list[list[str]]:
    """The cells, without those of the first line, which is as it should be."""
    head, *rows = csv.reader(io.StringIO(answer.content.decode(), newline=""), strict=True)
    assert head == HEAD_LINE.split(",")
    return rows


def as_cells(item: Any) -> list[str]:
    """An item, as JSON has it, as CSV has it."""
    item = dict(item)
    item["price"] = None if item["price"] is None else f"{item['price']:.2f}"
    item["is_active"] = str(item["is_active"]).lower()
    return ["" if value is None else str(value) for value in item.values()]


async def check_all_is_free(app: FastAPI, server: uvicorn.Server) -> None:
    """Soon no connection of the pool is in use, nor any slot."""
    await until(lambda: app.state.engine.pool.checkedout() == 0)
    async with app.state.engine.connect() as conn:
        assert await conn.scalar(text(f"SELECT count(*) {IN_TRANSACTION}")) == 0
    async with AsyncExitStack() as stack:
        for _ in range(SLOTS):
            assert await status(await stack.enter_async_context(asking(server))) == 200


async def ask_for(client: httpx.AsyncClient, *accept: str, **params: str) -> httpx.Response:
    """Ask with these lines of Accept, or without any."""
    lines = [(b"Accept", line.encode("latin-1")) for line in accept]
    request = client.build_request("GET", EXPORT, params=params, headers=lines)
    if not accept:
        del request.headers["accept"]
    return await client.send(request)


@pytest.mark.parametrize(
    ("accept", "form"),
    [
        ([], "ndjson"),
        ([""], "ndjson"),
        (["*/*"], "ndjson"),
        (["application/x-ndjson"], "ndjson"),
        (["application/*"], "ndjson"),
        (["text/csv"], "csv"),
        (["TEXT/CSV"], "csv"),
        (["text/*"], "csv"),
        (["Text/*;Q=0.5"], "csv"),
        (["text/csv, application/x-ndjson"], "ndjson"),
        (["text/csv;q=0.5, application/x-ndjson;q=0.4"], "csv"),
        (["text/csv;q=0.4, */*;q=0.5"], "ndjson"),
        (["*/*;q=0.9, text/*;q=0.2, application/x-ndjson;q=0.1"], "csv"),
        (["text/csv;q=0, */*"], "ndjson"),
        (["application/x-ndjson;q=0, */*;q=0.001"], "csv"),
        (["text/*;q=0, text/csv"], "csv"),
        (["text/csv; charset=utf-8; q=0.9, application/json"], "csv"),
        (["\ttext/csv ; q=1 ,, "], "csv"),
        (["text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"], "ndjson"),
        (["text/csv;q=high, application/x-ndjson;q=0.1"], "ndjson"),
        (["application/json", "text/csv"], "csv"),
    ],
    ids=str,
)
async def test_accept_chooses_the_form(
    client: httpx.AsyncClient, accept: list[str], form: str
) -> None:
    answer = await ask_for(client, *accept)

    assert answer.status_code == 200
    assert answer.headers["content-type"] == TYPES[form]
    assert answer.headers["content-disposition"] == f'attachment; filename="items.{form}"'
    assert "accept" in answer.headers["vary"].lower().split(", ")


@pytest.mark.parametrize(
    "accept",
    [
        "application/json",
        "text/html, image/*",
        "text/csvs",
        "*/*;q=0",
        "text/csv;q=0.000",
        "text/csv;q=0, text/*",
        "application/*;q=0, text/*;q=0, */*",
        "csv",
        "nonsense",
    ],
)
async def test_a_form_that_there_is_not_is_a_406(client: httpx.AsyncClient, accept: str) -> None:
    problem = check_problem(await ask_for(client, accept), 406, "not-acceptable")

    for name in ("application/x-ndjson", "text/csv"):
        assert name in problem["detail"]


async def test_a_malformed_accept_is_no_fault_of_the_service(client: httpx.AsyncClient) -> None:
    for accept in [
        *(",", ";;;", ";q=1", "q=1", "*", "*/csv", "\xff\xfe", 'text/csv;a="x, y;q=0'),
        *(f"text/csv;q={quality}" for quality in ("", "nan", "-1", "inf", "1e999", "½")),
        *("text/csv," * 5000, "text/csv" + ";q=1" * 5000),
    ]:
        assert (await ask_for(client, accept)).status_code in (200, 406)


@pytest.mark.parametrize("form", FORMS)
async def test_format_wins_over_accept(client: httpx.AsyncClient, form: str) -> None:
    for accept in ("text/csv", "application/x-ndjson", "image/png", "*/*;q=0"):
        answer = await ask_for(client, accept, format=form)

        assert answer.status_code == 200
        assert answer.headers["content-type"] == TYPES[form]


@pytest.mark.parametrize(
    "query",
    [
        *("page=1", "per_page=20", "sort=id", "cursor=", "count=none", "colour=red"),
        *("format=xml", "format=CSV", "format=", "is_active=maybe", "q=%00", "q=%ff"),
        *("price_min=-1", "price_min=1e3", "price_max=cheap", "price_max=NaN"),
        *("created_after=yesterday", "created_before=2026-11-22", "updated_after=0"),
    ],
)
async def test_a_parameter_that_is_wrong_or_the_lists_alone_is_a_422(
    client: httpx.AsyncClient, query: str
) -> None:
    problem = check_problem(await client.get(f"{EXPORT}?{query}"), 422, "invalid-input")

    assert [error["parameter"] for error in problem["errors"]] == [query.partition("=")[0]]


async def test_ndjson_is_a_line_an_item_as_it_reads_alone(
    client: httpx.AsyncClient, app: FastAPI
) -> None:
    await store(app, AWKWARD)
    alone = [(await client.get(f"/items/{n}")).content for n in range(1, len(AWKWARD) + 1)]

    assert (await client.get(EXPORT)).content == b"".join(line + b"\n" for line in alone)


async def test_csv_reads_back_as_the_items(client: httpx.AsyncClient, app: FastAPI) -> None:
    await store(app, AWKWARD)
    answer = await client.get(EXPORT, params={"format": "csv"})

    assert answer.text.startswith(f"{HEAD_LINE}\r\n")
    assert read_csv(answer) == [as_cells(item) for item in await exported(client)]


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
async def test_a_cell_that_a_spreadsheet_would_run_is_made_harmless(
    client: httpx.AsyncClient, app: FastAPI, start: str
) -> None:
    cells = [start + rest for rest in ("", 'cmd|" /C calc"!A0', "1\n=2,3")]
    await store(app, [{"name": cell, "description": cell} for cell in cells])
    rows = read_csv(await client.get(EXPORT, params={"format": "csv"}))
    items = await exported(client)

    assert [row[1:3] for row in rows] == [[f"'{cell}"] * 2 for cell in cells]
    assert [(item["name"], item["description"]) for item in items] == [(c, c) for c in cells]


@pytest.mark.parametrize(
    "number",
    [0, 1, crud.EXPORT_BATCH - 1, crud.EXPORT_BATCH, crud.EXPORT_BATCH + 1, 2 * crud.EXPORT_BATCH],
)
async def test_each_item_comes_once_and_by_id_however_many(
    client: httpx.AsyncClient, app: FastAPI, number: int
) -> None:
    await store(app, [{"name": "Thing"}] * number)
    await execute(app, "UPDATE items SET price = 1 WHERE id = 1")  # moves it within the table
    rows = read_csv(await client.get(EXPORT, params={"format": "csv"}))

    assert ids(await exported(client)) == list(range(1, number + 1))
    assert [int(row[0]) for row in rows] == list(range(1, number + 1))


@pytest.mark.parametrize("params", [{}, {"q": "nothing has this name"}], ids=str)
async def test_an_export_of_nothing_is_empty_or_the_head_line_alone(
    client: httpx.AsyncClient, app: FastAPI, params: dict[str, str]
) -> None:
    await store(app, STOCK if params else [])

    answers = [await client.get(EXPORT, params={**params, "format": form}) for form in FORMS]

    assert [answer.status_code for answer in answers] == [200, 200]
    assert [answer.text for answer in answers] == ["", f"{HEAD_LINE}\r\n"]


@pytest.mark.parametrize(
    ("params", "wanted"),
    [
        ({"is_active": "true"}, [1, 3]),
        ({"is_active": "false"}, [2, 4]),
        ({"q": "LAMP"}, [1, 2]),
        ({"q": "50%"}, [2]),
        ({"q": ""}, [1, 2, 3, 4]),
        ({"price_min": "5"}, [1, 3]),
        ({"price_max": "5.00"}, [1, 4]),
        ({"price_min": "0", "price_max": "9999999999.99"}, [1, 3, 4]),
        ({"price_min": "6", "price_max": "5"}, []),
        ({"created_after": "2026-01-01T00:00:00Z"}, [1, 2, 3, 4]),
        ({"created_before": "2026-01-01T00:00:00+01:00"}, []),
        ({"q": "l", "is_active": "false", "price_max": "1"}, [4]),
    ],
    ids=str,
)
async def test_the_filters_are_those_of_the_list(
    client: httpx.AsyncClient, app: FastAPI, params: dict[str, str], wanted: list[int]
) -> None:
    await store(app, STOCK)
    listed = (await client.get("/items", params=params)).json()["items"]

    assert ids(listed) == wanted
    assert await exported(client, **params) == listed


async def test_times_filter_as_they_do_in_the_list(client: httpx.AsyncClient) -> None:
    items = [(await client.post("/items", json={"name": "Lamp"})).json() for _ in range(3)]
    await client.patch("/items/1", json={"price": 1})

    for params, wanted in [
        ({"created_after": items[0]["created_at"]}, [2, 3]),
        ({"created_before": items[2]["created_at"]}, [1, 2]),
        ({"updated_after": items[2]["updated_at"]}, [1]),
    ]:
        assert ids(await exported(client, **params)) == wanted


@pytest.mark.parametrize("form", FORMS)
async def test_an_export_is_of_one_moment(app: FastAPI, web: httpx.AsyncClient, form: str) -> None:
    await store_big(app)
    async with web.stream("GET", EXPORT, params={"format": form}) as answer:
        chunks = answer.aiter_bytes()
        body = [await anext(chunks)]
        assert app.state.engine.pool.checkedout() == 1  # it is not through
        await execute(
            app,
            "UPDATE items SET name = 'Changed', description = NULL WHERE id % 2 = 0",
            "DELETE FROM items WHERE id % 5 = 0",
            "INSERT INTO items (name) SELECT 'New' FROM generate_series(1, 100)",
        )
        body += [chunk async for chunk in chunks]

    lines = b"".join(body).decode().splitlines()
    rows = [*map(json.loads, lines)] if form == "ndjson" else [*csv.DictReader(lines)]
    assert [int(row["id"]) for row in rows] == list(range(1, BIG + 1))
    assert {(row["name"], len(row["description"])) for row in rows} == {("Big", 10_000)}
    assert (await web.get("/items/2")).json()["name"] == "Changed"
    assert (await web.get("/items/5")).status_code == 404


async def test_a_client_may_take_longer_than_a_statement_may(settings: Settings) -> None:
    app = create_app(settings.model_copy(update={"statement_timeout_ms": 1000}))
    async with serving(app), listening(app) as server, web_client(server) as web:
        await execute(app, "TRUNCATE items", INSERT_BIG.format(BIG))
        async with web.stream("GET", EXPORT) as answer:
            size = 0
            async for chunk in answer.aiter_bytes():
                if not size:
                    await asyncio.sleep(1.5)
                size += len(chunk)

    assert size > BIG * 10_000


@pytest.mark.parametrize("form", FORMS)
async def test_head_is_what_get_says_before_its_body(
    client: httpx.AsyncClient, app: FastAPI, form: str
) -> None:
    await store(app, STOCK)
    head, get = [
        await client.request(method, EXPORT, params={"format": form}) for method in ("HEAD", "GET")
    ]

    assert (head.status_code, head.content) == (200, b"")
    assert get.content
    assert head.headers.keys() == get.headers.keys()
    for name in get.headers.keys() - {"x-request-id"}:
        assert head.headers[name] == get.headers[name]


@pytest.mark.parametrize(
    ("query", "accept", "code"), [("page=1", "*/*", 422), ("", "image/png", 406)]
)
async def test_head_is_refused_as_get_is(
    client: httpx.AsyncClient, query: str, accept: str, code: int
) -> None:
    answer = await client.head(f"{EXPORT}?{query}", headers={"Accept": accept})

    assert (answer.status_code, answer.content) == (code, b"")


async def test_head_reads_no_further_than_it_must(
    app: FastAPI, server: uvicorn.Server, batches: list[int]
) -> None:
    await store_big(app)
    for _ in range(SLOTS + 1):
        async with asking(server, method="HEAD") as reader:
            assert await status(reader) == 200
    async with asking(server, method="HEAD", connection="close") as reader:
        (head, nothing) = (await reader.read()).split(b"\r\n\r\n")

    assert head.startswith(b"HTTP/1.1 200 ")
    assert nothing == b""
    assert batches == [crud.EXPORT_BATCH] * (SLOTS + 2)
    await check_all_is_free(app, server)


async def test_no_more_is_read_than_a_client_takes(
    app: FastAPI, server: uvicorn.Server, batches: list[int]
) -> None:
    await store_big(app)
    async with asking(server) as reader:
        assert await status(reader) == 200
        await asyncio.sleep(0.5)

        assert 1 <= len(batches) <= 3
        async with asyncio.timeout(TIMEOUT):
            await reader.readexactly(10_000 * crud.EXPORT_BATCH * 5 // 2)
        assert 3 <= len(batches) < BIG // crud.EXPORT_BATCH


async def test_exports_are_few_and_leave_connections_for_the_rest(
    app: FastAPI, server: uvicorn.Server, web: httpx.AsyncClient
) -> None:
    await store_big(app)
    async with AsyncExitStack() as stack:
        for _ in range(SLOTS):
            assert await status(await stack.enter_async_context(asking(server))) == 200
        for form in FORMS:
            refused = await web.get(EXPORT, params={"format": form})
            check_problem(refused, 503, "unavailable")
            assert int(refused.headers["retry-after"]) > 0
        assert (await web.head(EXPORT)).status_code == 503

        assert (await web.post("/items", json={"name": "Lamp"})).status_code == 201
        paths = ["/items", "/items/1", "/items?q=lamp&sort=-name", "/health/ready"]
        answers = await asyncio.gather(*(web.get(path) for path in paths * 10))
        assert {answer.status_code for answer in answers} == {200}
        assert app.state.engine.pool.checkedout() == SLOTS  # they are still under way

    await check_all_is_free(app, server)


async def test_of_many_that_ask_at_once_so_many_get_a_slot(
    app: FastAPI, server: uvicorn.Server
) -> None:
    await store_big(app)
    async with AsyncExitStack() as stack:
        readers = [await stack.enter_async_context(asking(server)) for _ in range(10)]
        statuses = await asyncio.gather(*map(status, readers))

    assert Counter(statuses) == {200: SLOTS, 503: 10 - SLOTS}
    await check_all_is_free(app, server)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("read", [0, 1, 6_000_000])
async def test_a_client_that_vanishes_frees_all_it_held(
    app: FastAPI, server: uvicorn.Server, caplog: pytest.LogCaptureFixture, form: str, read: int
) -> None:
    await store_big(app)
    for _ in range(SLOTS):
        async with asking(server, f"{EXPORT}?format={form}") as reader:
            assert await status(reader) == 200
            async with asyncio.timeout(TIMEOUT):
                await reader.readexactly(read)

    await check_all_is_free(app, server)
    await until(lambda: not server.server_state.connections)
    assert complaints(caplog) == []


async def test_a_client_that_vanishes_before_the_first_byte_frees_all_it_held(
    app: FastAPI, server: uvicorn.Server, caplog: pytest.LogCaptureFixture
) -> None:
    await store_big(app)
    async with transactional(app.state.engine).begin() as conn:
        await conn.execute(text("LOCK TABLE items"))
        async with AsyncExitStack() as stack:
            for _ in range(SLOTS):
                await stack.enter_async_context(asking(server))
            await until(lambda: app.state.engine.pool.checkedout() == SLOTS + 1)

    await check_all_is_free(app, server)
    assert complaints(caplog) == []


async def test_a_client_that_reads_nothing_frees_all_it_held(
    app: FastAPI, server: uvicorn.Server, impatient: None
) -> None:
    await store_big(app)
    async with AsyncExitStack() as stack:
        for _ in range(SLOTS):
            assert await status(await stack.enter_async_context(asking(server))) == 200

        await check_all_is_free(app, server)


async def test_a_client_that_reads_nothing_is_no_error_of_the_service(
    app: FastAPI, server: uvicorn.Server, impatient: None, caplog: pytest.LogCaptureFixture
) -> None:
    await store_big(app)
    async with asking(server) as reader:
        assert await status(reader) == 200
        await until(lambda: not server.server_state.tasks)

    assert complaints(caplog) == []


async def test_a_client_that_reads_nothing_loses_its_own_connection(
    app: FastAPI, server: uvicorn.Server, impatient: None
) -> None:
    await store_big(app)
    async with asking(server) as reader:
        assert await status(reader) == 200

        # Else its megabytes stay in memory for as long as it likes.
        await until(lambda: not server.server_state.connections)


def test_a_client_stalls_sooner_than_its_transaction(settings: Settings) -> None:
    assert settings.request_timeout * 1000 < database.IDLE_IN_TRANSACTION_TIMEOUT_MS


def complaints(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelname != "INFO"]


async def test_a_fault_before_the_first_byte_is_a_problem_and_frees_the_slot(
    app: FastAPI, server: uvicorn.Server, web: httpx.AsyncClient
) -> None:
    await store_big(app)
    await execute(app, "ALTER TABLE items RENAME TO gone")
    try:
        for form in FORMS * SLOTS:
            answer = await web.get(EXPORT, params={"format": form})
            check_problem(answer, 503, "unavailable")
    finally:
        await execute(app, "ALTER TABLE gone RENAME TO items")

    await check_all_is_free(app, server)


def test_without_a_database_an_export_is_a_503(settings: Settings) -> None:
    settings.database_url = SecretStr("postgresql://127.0.0.1:1/nothing")
    with TestClient(create_app(settings)) as client:
        for _ in range(SLOTS + 1):
            answer = client.get(EXPORT)
            check_problem(answer, 503, "unavailable")
            assert answer.json()["detail"] == client.get("/items").json()["detail"]  # no slot lost
        assert client.head(EXPORT).status_code == 503
        check_problem(client.get(f"{EXPORT}?page=1"), 422, "invalid-input")


async def test_with_no_connection_left_an_export_is_a_503_and_frees_the_slot(
    settings: Settings,
) -> None:
    app = create_app(settings.model_copy(update={"pool_size": 1, "pool_timeout": 0.05}))
    async with serving(app) as client:
        async with app.state.engine.connect():
            for _ in range(SLOTS + 1):
                check_problem(await client.get(EXPORT), 503, "unavailable")
        assert (await client.get(EXPORT)).status_code == 200


def fill(url: str, rows: int = BIG) -> None:
    script(url, f"TRUNCATE items RESTART IDENTITY; {INSERT_BIG.format(rows)}")


def levels(lines: Sequence[dict[str, Any]]) -> set[str]:
    return {line["level"] for line in lines}


@pytest.mark.parametrize("form", FORMS)
def test_the_log_does_not_complain_of_a_client_that_vanishes(
    process: Server, database_url: str, form: str
) -> None:
    fill(database_url)
    before = len(process.lines())
    for _ in range(2):
        with httpx.stream("GET", f"{process.url}{EXPORT}?format={form}") as answer:
            assert answer.status_code == 200
            assert next(answer.iter_bytes())
        line = process.line_of(answer)  # the request is at its end
        assert (line["route"], line["status"]) == (EXPORT, 200)
        assert 0 < line["bytes"] < BIG * 10_000

    assert len(httpx.get(f"{process.url}{EXPORT}").content) > BIG * 10_000
    assert query(database_url, f"SELECT {IN_TRANSACTION}") == []
    lines = process.lines()[before:]
    assert len(lines) >= 2
    assert levels(lines) == {"info"}


@pytest.mark.parametrize("form", FORMS)
def test_a_fault_in_the_midst_breaks_off_and_is_logged(
    process: Server, database_url: str, form: str
) -> None:
    fill(database_url)
    with httpx.stream("GET", f"{process.url}{EXPORT}?format={form}") as answer:
        chunks = answer.iter_raw()
        assert next(chunks)
        wait_until(lambda: len(query(database_url, f"SELECT {IN_TRANSACTION}")) == 1)
        killed = query(database_url, f"SELECT pg_terminate_backend(pid, 5000) {IN_TRANSACTION}")
        assert killed == [(True,)]
        with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
            for _ in chunks:
                pass

    assert process.line_of(answer)["status"] == 200
    (line,) = process.events("database_fault")[-1:]
    assert line["level"] == "warning"
    assert line["request_id"] == answer.headers["x-request-id"]
    assert process.events("unhandled_error") == []
    # The slot is free, and the connection replaced.
    whole = httpx.get(f"{process.url}{EXPORT}")
    assert whole.content.count(b"\n") == BIG


@pytest.mark.parametrize("form", FORMS)
def test_an_export_takes_no_more_memory_the_longer_it_is(
    process: Server, database_url: str, form: str
) -> None:
    rows = 12_000
    fill(database_url, rows)
    (worker,) = psutil.Process(process.process.pid).children()
    before = peak = worker.memory_info().rss
    size = 0
    with httpx.stream("GET", f"{process.url}{EXPORT}?format={form}") as answer:
        for chunk in answer.iter_bytes(1_000_000):
            size += len(chunk)
            peak = max(peak, worker.memory_info().rss)

    assert size > rows * 10_000
    assert peak - before < 60_000_000
