"""Conditional requests (RFC 9110, section 13): ETag, If-None-Match and If-Match."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any

import httpx2 as httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import text

from service.database.engine import transactional
from service.main import create_app
from service.settings import Settings
from service.state import state_of
from tests.support.apps import serving, tolerate_locks
from tests.support.locks import BLOCKED, until_true
from tests.support.problems import check_problem
from tests.support.samples import LAMP
from tests.support.waiting import TIMEOUT

Write = tuple[str, str, Any]  # method, query, body

PUT: Write = ("PUT", "", {"name": "Torch"})
PATCH: Write = ("PATCH", "", {"name": "Torch"})
EMPTY_PATCH: Write = ("PATCH", "", {})
DELETE: Write = ("DELETE", "", None)
PERMANENT_DELETE: Write = ("DELETE", "?permanent=true", None)
CHANGES = [PUT, PATCH, DELETE, PERMANENT_DELETE]
each_write = pytest.mark.parametrize(
    "write",
    [*CHANGES, EMPTY_PATCH],
    ids=["put", "patch", "delete", "permanent delete", "empty patch"],
)

# Values of If-Match and If-None-Match, one for each line of the header. The version is 1.
STRONG = [
    ['"1"'],
    [" *\t"],
    ["", '"9"', '"1"', '"8"'],
    ['"1,9", W/"1",\t"1"'],
    [' , ,\t,"a,b" ,, "1" \t, '],
    [", ".join(f'"{n}"' for n in range(10_000))],
]
WEAK = [['W/"1"'], ['"9"', 'W/"9",W/"1"']]
OTHER = [
    ['"2"', 'W/"3"'],
    ['""'],
    ['"*"'],
    ['"9,1"', '"1,9"'],
    ['"01"'],
    ['"1.0"'],
    ['"\xff"'],
    ['"9223372036854775808"'],  # the first that is no int64
    [f'"{"1" * 100_000}"'],
]
MALFORMED = [
    [""],
    ["1"],
    ['"1'],
    ['"1"1'],
    ['"1", 1'],
    ['"1" "2"'],
    ['w/"1"'],
    ['W/ "1"'],
    ['"a b"'],
    ['"1\x7f"'],
    ['x, "1"'],
    ['*, "1"'],
    ["*", "*"],
    ['"1', '2"'],
    [f'"1"{" " * 100_000}x'],
    [f"{', ' * 100_000}x"],
]


@pytest.fixture
def settings(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Timeouts long enough for requests that wait for a lock."""
    settings.request_timeout = TIMEOUT
    return tolerate_locks(settings, monkeypatch)


@pytest.fixture
async def strict_client(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a service with REQUIRE_IF_MATCH."""
    settings.require_if_match = True
    async with serving(create_app(settings)) as client:
        yield client


async def create(client: httpx.AsyncClient) -> str:
    """Create an item; return its address."""
    answer = await client.post("/items", json=LAMP)
    assert answer.status_code == 201
    return str(answer.headers["location"])


async def send(
    client: httpx.AsyncClient, address: str, write: Write, *if_match: str
) -> httpx.Response:
    """Send `write` with as many lines of If-Match."""
    method, query, body = write
    headers = lines("If-Match", if_match)
    return await client.request(method, address + query, json=body, headers=headers)


def lines(name: str, values: Iterable[str]) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode("latin-1")) for value in values]


async def test_a_response_with_one_item_has_its_version_as_a_strong_etag(
    client: httpx.AsyncClient,
) -> None:
    key = {"Idempotency-Key": "once"}
    address = await create(client)
    answers = [
        await client.post("/items", json=LAMP),
        await client.post("/items", json=LAMP, headers=key),
        await client.post("/items", json=LAMP, headers=key),
        await client.get(address),
        await send(client, address, PUT),
        await send(client, address, PATCH),
        await send(client, address, EMPTY_PATCH),
        await client.get(address),
    ]
    head = await client.head(address)

    assert [answer.json()["version"] for answer in answers] == [1, 1, 1, 1, 2, 3, 3, 3]
    for answer in answers:
        assert answer.headers.get_list("etag") == [f'"{answer.json()["version"]}"']
    assert head.headers.get_list("etag") == ['"3"']


async def test_only_the_client_may_cache_items_and_it_must_revalidate(
    client: httpx.AsyncClient,
) -> None:
    address = await create(client)
    for answer in (
        await client.get(address, headers={"If-None-Match": '"1"'}),
        await client.post("/items", json=LAMP),
        await client.post("/items/bulk", json={"items": [LAMP]}),
        await client.get(address),
        await send(client, address, PUT),
        await client.get("/items"),
    ):
        assert answer.headers.get_list("cache-control") == ["private, no-cache"]
        assert answer.headers.get_list("vary") == ["Authorization"]


async def test_a_304_has_the_etag_and_no_content(client: httpx.AsyncClient) -> None:
    address = await create(client)
    for method in ("GET", "HEAD"):
        answer = await client.request(method, address, headers={"If-None-Match": '"1"'})

        assert (answer.status_code, answer.content) == (304, b"")
        assert answer.headers.get_list("etag") == ['"1"']
        assert "content-type" not in answer.headers


@pytest.mark.parametrize(
    ("values", "read_status", "write_status"),
    [
        pytest.param(STRONG, 304, 200, id="the version"),
        pytest.param(WEAK, 304, 412, id="the version as a weak tag"),
        pytest.param(OTHER, 200, 412, id="another version"),
        pytest.param(MALFORMED, 200, 400, id="malformed"),
    ],
)
async def test_a_list_of_tags_is_compared_with_the_version(
    client: httpx.AsyncClient, values: list[list[str]], read_status: int, write_status: int
) -> None:
    for value in values:
        address = await create(client)
        read = await client.get(address, headers=lines("If-None-Match", value))
        write = await send(client, address, PATCH, *value)

        statuses = (read.status_code, write.status_code)
        assert statuses == (read_status, write_status), f"{value!r:.80}"


@each_write
async def test_a_write_to_the_expected_version_succeeds(
    client: httpx.AsyncClient, write: Write
) -> None:
    for if_match in ([], ['"1"'], ["*"]):
        address = await create(client)
        answer = await send(client, address, write, *if_match)
        left = await client.get(address)

        assert answer.is_success, if_match
        if write is PERMANENT_DELETE:
            assert left.status_code == 404
        else:
            assert left.json()["version"] == (1 if write is EMPTY_PATCH else 2)
        if answer.content:
            assert answer.json() == left.json()


@each_write
async def test_a_write_to_another_version_changes_nothing(
    client: httpx.AsyncClient, write: Write
) -> None:
    address = await create(client)
    before = (await client.get(address)).json()
    for tag in ('"9"', 'W/"1"'):
        check_problem(await send(client, address, write, tag), 412, "precondition-failed")
    check_problem(await send(client, address, write, "1"), 400, "bad-request")

    assert (await client.get(address)).json() == before


@each_write
async def test_a_write_without_a_required_if_match_is_a_428(
    strict_client: httpx.AsyncClient, write: Write
) -> None:
    address = await create(strict_client)
    before = (await strict_client.get(address)).json()

    check_problem(await send(strict_client, address, write), 428, "precondition-required")
    assert (await strict_client.get(address)).json() == before
    assert (await send(strict_client, address, write, '"1"')).is_success


@each_write
async def test_a_missing_item_is_a_404_whatever_the_condition(
    client: httpx.AsyncClient, write: Write
) -> None:
    for tag in ('"1"', 'W/"1"', "*"):
        read = await client.get("/items/1", headers={"If-None-Match": tag})

        check_problem(read, 404, "not-found")
        check_problem(await send(client, "/items/1", write, tag), 404, "not-found")


@pytest.mark.parametrize(
    ("statement", "end", "expected"),
    [
        ("UPDATE items SET version = version + 1", "commit", {412}),
        ("DELETE FROM items", "commit", {404}),
        ("DELETE FROM items", "rollback", {200, 204}),
    ],
)
async def test_a_write_that_waited_for_a_lock_checks_the_version_again(
    app: FastAPI, client: httpx.AsyncClient, statement: str, end: str, expected: set[int]
) -> None:
    for write in CHANGES:
        address = await create(client)
        async with transactional(state_of(app).engine).connect() as other:
            await other.execute(text(statement))
            waiting = asyncio.create_task(send(client, address, write, '"1"'))
            await until_true(app, f"{BLOCKED} >= 1")
            await getattr(other, end)()

        assert (await waiting).status_code in expected, write
