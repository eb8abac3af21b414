"""Conditional requests, and PATCH: what a client says of the version and the form it means."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from itertools import cycle, islice, product
from typing import Any

import httpx2 as httpx
import pytest
from fastapi import FastAPI
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sqlalchemy import text

from service.database import transactional
from service.main import create_app
from service.settings import Settings
from tests.support.apps import serving
from tests.support.waiting import TIMEOUT

Write = tuple[str, str, Any]  # method, query, body

LAMP = {"name": "Lamp", "description": "Warm", "price": 29.99}
PUT: Write = ("PUT", "", {"name": "Torch"})
PATCH: Write = ("PATCH", "", {"name": "Torch"})
PATCH_NOTHING: Write = ("PATCH", "", {})
DELETE: Write = ("DELETE", "", None)
DELETE_FOR_GOOD: Write = ("DELETE", "?permanent=true", None)
CHANGES = [PUT, PATCH, DELETE, DELETE_FOR_GOOD]
WRITES = [*CHANGES, PATCH_NOTHING]

# Each is what a header says, line by line; the item's version is 1.
STRONG = [
    ['"1"'],
    ["*"],
    ['"9", "1"'],
    ['"1","1"'],
    ['"9"', '"1"', '"8"'],
    ["", '"1"', ""],
    ['"a,b" , "1", "c"'],
    ['"1,9", W/"1",\t"1"'],
    [' , ,\t,"9" ,, "1" \t, '],
    [", ".join(f'"{n}"' for n in range(10_000))],
]
WEAK = [['W/"1"'], ['"9",W/"1"'], ['"9"', 'W/"9"', 'W/"1"']]
OTHERS = [
    ['"2"'],
    ['W/"2"', '"3"'],
    ['""'],
    ['"*"'],
    ['"9,1"', '"1,9"'],
    ['"01"'],
    ['"0"'],
    ['"-1"'],
    ['"+1"'],
    ['"1.0"'],
    ['"1e0"'],
    ['"0x1"'],
    ['"\\1"'],
    ['"\u00b9"'],  # a digit, as str.isdigit has it
    ['"9223372036854775807"'],
    ['"9223372036854775808"'],
    ['"-9223372036854775809"'],
    ['"18446744073709551617"'],  # 1 in 64 bits
    [f'"{"1" * 100_000}"'],
]
MALFORMED = [
    [""],
    [" \t"],
    [" , ,"],
    ["1"],
    ["W/1"],
    ["'1'"],
    ['"1'],
    ['1"'],
    ['"'],
    ['"1"1'],
    ['"1" "2"'],
    ['"1""2"'],
    ['"1";"2"'],
    ['w/"1"'],
    ['W/ "1"'],
    ['"a b"'],
    ['"1\x7f"'],
    ['"1", 1'],
    ['x, "1"'],
    ['*, "1"'],
    ["*", "*"],
    ['"1', '2"'],
    [f'"1"{" " * 100_000}x'],
    [f"{', ' * 100_000}x"],
]


def short(value: object) -> str:
    told = str(value)
    return told if len(told) < 50 else f"{told[:40]}... of {len(told)}"


each_write = pytest.mark.parametrize("write", WRITES, ids=short)


async def create(client: httpx.AsyncClient) -> str:
    """The address of a new item."""
    answer = await client.post("/items", json=LAMP)
    assert answer.status_code == 201
    return str(answer.headers["location"])


async def send(
    client: httpx.AsyncClient, address: str, write: Write, if_match: list[str] | None = None
) -> httpx.Response:
    method, query, body = write
    headers = lines("If-Match", if_match or [])
    return await client.request(method, address + query, json=body, headers=headers)


def lines(name: str, values: list[str]) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode("latin-1")) for value in values]


def check_problem(answer: httpx.Response, status: int, kind: str) -> None:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["type"] == f"urn:items-service:{kind}"


def check_caching(answer: httpx.Response) -> None:
    """Nobody but the client keeps it, and not even it without asking."""
    assert answer.headers.get_list("cache-control") == ["private, no-cache"]
    assert answer.headers.get_list("vary") == ["Authorization"]


@pytest.fixture
def patience(settings: Settings) -> None:
    """Requests wait for a connection as long as it takes."""
    settings.pool_timeout = TIMEOUT


@pytest.fixture
async def strict_client(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a service with REQUIRE_IF_MATCH."""
    settings.require_if_match = True
    async with serving(create_app(settings)) as client:
        yield client


async def test_every_answer_with_one_item_has_its_version_as_a_strong_etag(
    client: httpx.AsyncClient,
) -> None:
    key = {"Idempotency-Key": "once"}
    address = await create(client)
    answers = [
        await client.post("/items", json=LAMP),
        await client.post("/items", json=LAMP, headers=key),
        await client.post("/items", json=LAMP, headers=key),  # sent from memory
        await client.get(address),
        await send(client, address, PUT),
        await send(client, address, PATCH),
        await send(client, address, PATCH_NOTHING),
        await client.get(address),
    ]
    head = await client.head(address)

    assert [answer.json()["version"] for answer in answers] == [1, 1, 1, 1, 2, 3, 3, 3]
    for answer in answers:
        assert answer.headers.get_list("etag") == [f'"{answer.json()["version"]}"']
    assert head.headers.get_list("etag") == ['"3"']


async def test_items_and_lists_are_for_one_client_who_asks_anew(client: httpx.AsyncClient) -> None:
    address = await create(client)
    for answer in (
        await client.post("/items", json=LAMP),
        await client.post("/items/bulk", json={"items": [LAMP]}),
        await client.get(address),
        await client.head(address),
        await send(client, address, PUT),
        await send(client, address, PATCH),
        await client.get("/items"),
        await client.head("/items"),
    ):
        assert answer.is_success
        check_caching(answer)


@pytest.mark.parametrize("if_none_match", [*STRONG, *WEAK], ids=short)
async def test_a_client_that_has_the_version_gets_a_304(
    client: httpx.AsyncClient, if_none_match: list[str]
) -> None:
    address = await create(client)
    for method in ("GET", "HEAD"):
        headers = lines("If-None-Match", if_none_match)
        answer = await client.request(method, address, headers=headers)

        assert (answer.status_code, answer.content) == (304, b"")
        assert answer.headers.get_list("etag") == ['"1"']
        assert "content-type" not in answer.headers
        assert answer.headers.get("content-length", "0") == "0"
        check_caching(answer)


async def test_a_client_that_has_another_version_gets_the_item(client: httpx.AsyncClient) -> None:
    address = await create(client)
    for if_none_match in (*OTHERS, *MALFORMED):
        headers = lines("If-None-Match", if_none_match)
        get = await client.get(address, headers=headers)
        head = await client.head(address, headers=headers)

        assert (get.status_code, head.status_code) == (200, 200), if_none_match
        assert get.json()["version"] == 1


async def test_a_304_ends_with_the_next_change(client: httpx.AsyncClient) -> None:
    address = await create(client)
    await send(client, address, PATCH)
    answers = [await client.get(address, headers={"If-None-Match": f'"{n}"'}) for n in (1, 2)]

    assert [answer.status_code for answer in answers] == [200, 304]
    assert [answer.headers["etag"] for answer in answers] == ['"2"', '"2"']


async def test_an_item_that_is_not_there_is_a_404_and_no_304(client: httpx.AsyncClient) -> None:
    for method, tag in product(("GET", "HEAD"), ("*", '"1"')):
        answer = await client.request(method, "/items/1", headers={"If-None-Match": tag})

        assert answer.status_code == 404


@pytest.mark.parametrize("if_match", STRONG, ids=short)
async def test_a_write_to_the_expected_version_is_done(
    client: httpx.AsyncClient, if_match: list[str]
) -> None:
    for write in WRITES:
        address = await create(client)
        answer = await send(client, address, write, if_match)
        left = await client.get(address)

        assert answer.is_success, write
        if write is DELETE_FOR_GOOD:
            assert left.status_code == 404
        else:
            assert left.json()["version"] == (1 if write is PATCH_NOTHING else 2)
        if answer.content:
            assert answer.json() == left.json()


@pytest.mark.parametrize("if_match", [*WEAK, *OTHERS], ids=short)
async def test_a_write_to_another_version_is_a_412_and_changes_nothing(
    client: httpx.AsyncClient, if_match: list[str]
) -> None:
    address = await create(client)
    before = (await client.get(address)).json()
    for write in WRITES:
        check_problem(await send(client, address, write, if_match), 412, "precondition-failed")

    assert (await client.get(address)).json() == before


@pytest.mark.parametrize("if_match", MALFORMED, ids=short)
async def test_a_malformed_if_match_is_a_400_and_changes_nothing(
    client: httpx.AsyncClient, if_match: list[str]
) -> None:
    address = await create(client)
    before = (await client.get(address)).json()
    for write in WRITES:
        check_problem(await send(client, address, write, if_match), 400, "bad-request")

    assert (await client.get(address)).json() == before


@each_write
async def test_an_item_that_is_not_there_is_a_404_and_no_412(
    client: httpx.AsyncClient, write: Write
) -> None:
    gone = await create(client)
    await send(client, gone, DELETE_FOR_GOOD)
    for address in (gone, "/items/999999"):
        for tags in (['"1"'], ['"9"'], ['W/"1"'], ["*"]):
            check_problem(await send(client, address, write, tags), 404, "not-found")


async def test_a_patch_of_nothing_leaves_the_item_as_it_is(client: httpx.AsyncClient) -> None:
    address = await create(client)
    before = (await send(client, address, PATCH)).json()
    wrong = await send(client, address, PATCH_NOTHING, ['"1"'])
    right = await send(client, address, PATCH_NOTHING, ['"2"'])

    check_problem(wrong, 412, "precondition-failed")
    assert (right.status_code, right.headers["etag"]) == (200, '"2"')
    assert right.json() == before == (await client.get(address)).json()


async def test_an_inactive_item_that_is_deleted_again_stays_as_it_is(
    client: httpx.AsyncClient,
) -> None:
    address = await create(client)
    await send(client, address, DELETE, ['"1"'])
    before = (await client.get(address)).json()
    answers = [await send(client, address, DELETE, tags) for tags in (None, ['"2"'], ['"1"'])]

    assert [answer.status_code for answer in answers] == [204, 204, 412]
    assert (before["is_active"], before["version"]) == (False, 2)
    assert (await client.get(address)).json() == before


@each_write
async def test_a_write_that_has_to_name_its_version_does_or_is_a_428(
    strict_client: httpx.AsyncClient, write: Write
) -> None:
    address = await create(strict_client)
    before = (await strict_client.get(address)).json()

    check_problem(await send(strict_client, address, write), 428, "precondition-required")
    check_problem(await send(strict_client, address, write, [""]), 400, "bad-request")
    check_problem(await send(strict_client, address, write, ['"9"']), 412, "precondition-failed")
    assert (await strict_client.get(address)).json() == before
    assert (await send(strict_client, address, write, ['"1"'])).is_success
    assert (await send(strict_client, await create(strict_client), write, ["*"])).is_success


async def test_what_changes_nothing_need_not_name_a_version(
    strict_client: httpx.AsyncClient,
) -> None:
    bulk = await strict_client.post("/items/bulk", json={"items": [LAMP]})
    read = await strict_client.get(await create(strict_client))

    assert (bulk.status_code, read.status_code) == (201, 200)


several_examples = hypothesis_settings(
    deadline=None,
    max_examples=100,
    # The item is the same after each.
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
spaces = st.text(" \t", max_size=2)
opaques = st.sampled_from(["1", "2", "01", "", "*", "1,", ",1", "W/", "\\", "\u00e9"])
tags_sent = st.tuples(st.sampled_from(["", "W/"]), opaques)


@st.composite
def tag_lines(draw: st.DrawFn) -> tuple[list[str], list[tuple[str, str]]]:
    """Lines of a header, which together are a list of tags; and these."""
    sent, named = [], []
    for tags in draw(st.lists(st.lists(tags_sent, max_size=3), min_size=1, max_size=3)):
        line = ",".join(draw(st.lists(spaces, min_size=1, max_size=3)))
        for weak, opaque in tags:
            gap = ",".join(draw(st.lists(spaces, min_size=2, max_size=3)))
            line += f'{weak}"{opaque}"{gap}'
        sent.append(line)
        named += tags
    return sent, named


@several_examples
@given(made=tag_lines())
async def test_however_a_list_of_tags_is_written_it_is_understood(
    client: httpx.AsyncClient, made: tuple[list[str], list[tuple[str, str]]]
) -> None:
    sent, tags = made
    address = await create(client)
    write = await send(client, address, PATCH_NOTHING, sent)
    read = await client.get(address, headers=lines("If-None-Match", sent))

    assert write.status_code == (200 if ("", "1") in tags else 412 if tags else 400)
    assert read.status_code == (304 if "1" in [opaque for _, opaque in tags] else 200)


@several_examples
@given(sent=st.text('"W/*,1 \t\\\u00e9\x7f', max_size=12))
async def test_whatever_if_match_says_nothing_breaks(client: httpx.AsyncClient, sent: str) -> None:
    address = await create(client)
    write = await send(client, address, PATCH, [sent])
    read = await client.get(address, headers=lines("If-None-Match", [sent]))

    assert write.status_code in (200, 400, 412)
    if write.status_code == 200:
        assert sent.strip(" \t") == "*" or '"1"' in sent
    assert read.status_code in (200, 304)
    assert read.headers["etag"] == ('"2"' if write.status_code == 200 else '"1"')


async def race(
    app: FastAPI, client: httpx.AsyncClient, address: str, writes: Iterable[Write]
) -> list[httpx.Response]:
    """Send them all with one ETag, and let none be done before others have begun."""
    async with transactional(app.state.engine).connect() as other:
        await other.execute(text("SELECT FROM items FOR UPDATE"))
        sent = [asyncio.create_task(send(client, address, write, ['"1"'])) for write in writes]
        await until_blocked(app, sent, 10)
    return await asyncio.gather(*sent)


async def until_blocked(
    app: FastAPI, sent: Iterable[asyncio.Task[httpx.Response]], number: int
) -> None:
    """Wait until so many requests wait for a lock; none must be answered before."""
    blocked = (
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    async with asyncio.timeout(TIMEOUT), app.state.engine.connect() as conn:
        while await conn.scalar(text(blocked)) < number:
            assert not any(request.done() for request in sent)
            await asyncio.sleep(0.01)


@pytest.mark.usefixtures("patience")
@pytest.mark.parametrize(
    "writes",
    [[PUT], [PATCH], [DELETE], [PUT, PATCH, DELETE]],
    ids=["put", "patch", "delete", "mixed"],
)
async def test_one_of_a_hundred_writers_with_one_etag_wins(
    app: FastAPI, client: httpx.AsyncClient, writes: list[Write]
) -> None:
    address = await create(client)
    hundred = [
        (method, query, body and {"name": f"Writer {n}"})
        for n, (method, query, body) in enumerate(islice(cycle(writes), 100))
    ]
    answers = await race(app, client, address, hundred)
    left = (await client.get(address)).json()

    (winner,) = [answer for answer in answers if answer.is_success]
    assert Counter(answer.status_code for answer in answers)[412] == 99
    assert left["version"] == 2
    if winner.content:
        assert winner.json() == left
    else:
        assert left["is_active"] is False


@pytest.mark.usefixtures("patience")
async def test_one_of_a_hundred_wins_even_if_some_delete_for_good(
    app: FastAPI, client: httpx.AsyncClient
) -> None:
    address = await create(client)
    answers = await race(app, client, address, islice(cycle([DELETE_FOR_GOOD, PATCH]), 100))
    exists = (await client.get(address)).status_code == 200

    (winner,) = [answer for answer in answers if answer.is_success]
    losers = {answer.status_code for answer in answers} - {winner.status_code}
    assert winner.status_code == (200 if exists else 204)
    assert losers == {412 if exists else 404}


@pytest.mark.parametrize("write", CHANGES, ids=short)
@pytest.mark.parametrize(
    ("meanwhile", "is_committed", "status"),
    [
        ("UPDATE items SET version = version + 1", True, 412),
        ("UPDATE items SET version = version + 1", False, None),
        ("DELETE FROM items", True, 404),
        ("DELETE FROM items", False, None),
    ],
)
async def test_a_write_that_had_to_wait_is_decided_by_what_the_other_left(
    app: FastAPI,
    client: httpx.AsyncClient,
    write: Write,
    meanwhile: str,
    is_committed: bool,
    status: int | None,
) -> None:
    address = await create(client)
    async with transactional(app.state.engine).connect() as other:
        await other.execute(text(meanwhile))
        waiting = asyncio.create_task(send(client, address, write, ['"1"']))
        await until_blocked(app, [waiting], 1)
        await (other.commit() if is_committed else other.rollback())
    answer = await waiting

    assert answer.status_code == status if status else answer.is_success


PATCH_TYPES = ["application/merge-patch+json", "application/json"]
each_patch_type = pytest.mark.parametrize("media_type", PATCH_TYPES)


@pytest.mark.parametrize(
    "media_type",
    [
        *PATCH_TYPES,
        "application/merge-patch+json; charset=utf-8",
        'application/json;charset="UTF-8"',
        "application/json ; x=1",
        "Application/Merge-Patch+JSON",
        "APPLICATION/JSON;",
    ],
)
async def test_patch_takes_a_merge_patch_in_which_null_clears(
    client: httpx.AsyncClient, media_type: str
) -> None:
    address = await create(client)
    answer = await client.patch(
        address,
        content=b'{"description": null, "price": null, "other": {"name": null}}',
        headers={"Content-Type": media_type},
    )
    item = answer.json()

    assert answer.status_code == 200
    assert (item["name"], item["description"], item["price"]) == ("Lamp", None, None)
    assert item == (await client.get(address)).json()


@each_patch_type
@pytest.mark.parametrize("field", ["name", "is_active"])
async def test_null_does_not_clear_what_may_not_be_empty(
    client: httpx.AsyncClient, media_type: str, field: str
) -> None:
    address = await create(client)
    before = (await client.get(address)).json()
    content = f'{{"price": 1, "{field}": null}}'
    answer = await client.patch(address, content=content, headers={"Content-Type": media_type})

    check_problem(answer, 422, "invalid-input")
    assert [error["pointer"] for error in answer.json()["errors"]] == [f"#/{field}"]
    assert (await client.get(address)).json() == before


async def test_a_patch_that_would_make_the_item_no_object_is_refused(
    client: httpx.AsyncClient,
) -> None:
    address = await create(client)
    contents = ("null", "[]", '"Torch"', "1", "", '[{"name": "Torch"}]')
    for media_type, content in product(PATCH_TYPES, contents):
        headers = {"Content-Type": media_type}
        check_problem(
            await client.patch(address, content=content, headers=headers), 422, "invalid-input"
        )

    assert (await client.get(address)).json()["version"] == 1


@pytest.mark.parametrize(
    "media_type",
    [
        "text/plain",
        "text/plain; application/json",
        "text/json",
        "application/vnd.api+json",
        "application/json-patch+json",
        "application/merge-patch",
        "application/jsonx",
        "application/*",
        "*/*",
        "application/json, text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=application/json",
    ],
)
async def test_a_patch_of_another_type_is_a_415_that_names_those_that_do(
    client: httpx.AsyncClient, media_type: str
) -> None:
    address = await create(client)
    for content in (b'{"name": "Torch"}', b"", b"x" * 2_000_000):  # it need not even be read
        headers = {"Content-Type": media_type}
        answer = await client.patch(address, content=content, headers=headers)

        check_problem(answer, 415, "unsupported-media-type")
        assert sorted(answer.headers["accept-patch"].split(", ")) == sorted(PATCH_TYPES)
    assert (await client.get(address)).json()["version"] == 1
