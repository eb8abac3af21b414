"""Bad input over HTTP: refused with the code that says why, and nothing is stored."""

import json
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import httpx2 as httpx
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from service.settings import Settings

JSON = {"Content-Type": "application/json"}
INT64_MAX = 2**63 - 1

# As JSON, since much of it cannot be written by a JSON library.
BLANKS = r'" \t\n\u00a0\u2003\u3000 "'
BAD_TEXTS = [r'"\u0000"', r'"nul \u0000 inside"', r'"\ud800"', r'"half a pair \udfff"']
NO_TEXTS = ["5", "1.5", "true", "[]", '["text"]', "{}"]
BAD_NAMES = ['""', '"   "', BLANKS, f'"{"n" * 256}"', "null", *BAD_TEXTS, *NO_TEXTS]
BAD_DESCRIPTIONS = [f'"{"d" * 10_001}"', *BAD_TEXTS, *NO_TEXTS]
BAD_PRICES = [
    "-0.01",
    "-1",
    "-1e-30",
    "0.001",
    "29.999",
    "9999999999.991",
    "10000000000",
    "1e10",
    "123456789012345678901234567890",
    "0.123456789012345678901234567890",
    "1" * 5000,
    "1e400",
    "1e1000000000000000000",
    "-1e1000000000000000000",
    "1e-1000000000000000000",
    "NaN",
    "Infinity",
    "-Infinity",
    '"29.99"',
    '"NaN"',
    '""',
    "true",
    "[]",
    "[29.99]",
    "{}",
]
BAD_FLAGS = ["null", '"true"', '"yes"', '""', "0", "1", "0.0", "[]", "{}"]
BAD_FIELDS = [
    (field, value)
    for field, values in {
        "name": BAD_NAMES,
        "description": BAD_DESCRIPTIONS,
        "price": BAD_PRICES,
        "is_active": BAD_FLAGS,
    }.items()
    for value in values
]
DEEP = 100_000
BAD_BODIES = [
    b"",
    b" ",
    b"null",
    b"5",
    b'"text"',
    b"[]",
    b'[{"name": "Lamp"}]',
    b"{",
    b'{"name": "Lamp"',
    b'{"name": "Lamp",}',
    b'{"name": "Lamp"} {}',
    b"{'name': 'Lamp'}",
    b"{name: Lamp}",
    b'{"name": "new\nline"}',
    b'{"name": "Lamp\x00"}',
    b'{"name": "Lamp"}\x00',
    b'{"name": "\\x41"}',
    b'{"name": "\\u00"}',
    b'{"name": "Lamp", "price": 01}',
    b'{"name": "Lamp", "price": .5}',
    b'{"name": "Lamp", "price": +5}',
    b'{"name": "Lamp", "colour": NaN}',
    b'{"name": "\xff"}',
    b'{"name": "\xed\xa0\x80"}',
    '{"name": "Lamp"}'.encode("utf-16"),
    b"name=Lamp",
    b"[" * DEEP,
    b"[" * DEEP + b"]" * DEEP,
    b'{"name":' * DEEP + b"1" + b"}" * DEEP,
    b'{"name": "Lamp", "description": ' + b"[" * DEEP + b"]" * DEEP + b"}",
    b'{"name": "Lamp", "colour": ' + b"[" * DEEP + b"]" * DEEP + b"}",
    b'{"name": "Lamp", "colour": [' + b"0," * 200_000 + b"0]}",
]
BAD_IDS = [str(INT64_MAX + 1), str(-INT64_MAX - 2), "1" * 30, "1" * 5000]
BAD_IDS += ["abc", "1.5", "0x1", "NaN", "null", "%00", "1%00", "%ff", "%ED%A0%80", "' OR 1=1 --"]
BAD_QUERIES = {
    "page": ["0", "-1", str(INT64_MAX + 1), "1" * 30, "1" * 5000, "1.5", "one", "", "%00", "NaN"],
    "per_page": ["0", "101", "-1", str(INT64_MAX + 1), "1" * 5000, "1.5", "ten", "", "%00", "NaN"],
    "is_active": ["", "maybe", "2", "null", "%00"],
    "q": ["%00", "a%00b", "%ED%A0%80", "%ff"],
    "sort": ["", "colour", "--id", "ID", "id,name", "id;", "+id", "%00", "description", "version"],
}


def short(value: object) -> str:
    text = str(value)
    return text if len(text) < 50 else f"{text[:40]}... of {len(text)}"


async def listed(client: httpx.AsyncClient) -> Any:
    return (await client.get("/items", params={"per_page": 100})).json()["items"]


def check_refused(answer: httpx.Response, status: int = 422) -> list[dict[str, str]]:
    """It is a problem of this status; what it says of each error."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    errors: list[dict[str, str]] = answer.json().get("errors", [])
    if status == 422:
        assert errors
        assert all(error["detail"] and len(error) == 2 for error in errors)
    return errors


@pytest.fixture
async def item(client: httpx.AsyncClient) -> AsyncIterator[Any]:
    """An item; after the test it must be the only one, and unchanged."""
    item = (await client.post("/items", json={"name": "Only", "price": 1})).json()
    yield item
    assert await listed(client) == [item]


async def send_everywhere(
    client: httpx.AsyncClient, content: bytes, headers: dict[str, str]
) -> list[httpx.Response]:
    """Create, replace and change with this body."""
    return [
        await client.request(method, path, content=content, headers=headers)
        for method, path in [("POST", "/items"), ("PUT", "/items/1"), ("PATCH", "/items/1")]
    ]


@pytest.mark.usefixtures("item")
@pytest.mark.parametrize(("field", "value"), BAD_FIELDS, ids=short)
async def test_a_bad_value_is_refused_wherever_it_is_sent(
    client: httpx.AsyncClient, field: str, value: str
) -> None:
    fields = {"name": '"Lamp"', field: value}
    body = ", ".join(f'"{name}": {value}' for name, value in fields.items())
    for answer in await send_everywhere(client, f"{{{body}}}".encode(), JSON):
        (error,) = check_refused(answer)
        # What is not JSON has no field; what is points to it.
        assert error["pointer"] == ("#" if "Not valid JSON" in error["detail"] else f"#/{field}")


@pytest.mark.usefixtures("item")
@pytest.mark.parametrize("content", BAD_BODIES, ids=short)
async def test_a_bad_body_is_refused_wherever_it_is_sent(
    client: httpx.AsyncClient, content: bytes
) -> None:
    for answer in await send_everywhere(client, content, JSON):
        check_refused(answer)


@pytest.mark.usefixtures("item")
@pytest.mark.parametrize("method", ["POST", "PUT"])
async def test_a_missing_name_is_refused(client: httpx.AsyncClient, method: str) -> None:
    path = "/items" if method == "POST" else "/items/1"
    (error,) = check_refused(await client.request(method, path, json={"price": 5}))

    assert error["pointer"] == "#/name"


@pytest.mark.usefixtures("item")
async def test_every_bad_field_is_named(client: httpx.AsyncClient) -> None:
    body = {"name": "", "description": 5, "price": -1, "is_active": None}
    for answer in await send_everywhere(client, json.dumps(body).encode(), JSON):
        pointers = {error["pointer"] for error in check_refused(answer)}

        assert pointers == {f"#/{name}" for name in body}


@pytest.mark.usefixtures("item")
@pytest.mark.parametrize(
    "headers",
    [{}, *({"Content-Type": value} for value in ["", "text/plain", "text/json", "json", "*/*"])],
    ids=str,
)
async def test_a_body_that_does_not_say_it_is_json_is_refused(
    client: httpx.AsyncClient, headers: dict[str, str]
) -> None:
    for answer in await send_everywhere(client, b'{"name": "Lamp"}', headers):
        if answer.request.method == "PATCH" and headers.get("Content-Type"):
            assert answer.status_code == 415
            assert "application/merge-patch+json" in answer.headers["accept-patch"]
            continue
        (error,) = check_refused(answer)
        assert error["parameter"] == "Content-Type"


@pytest.mark.parametrize(
    "content_type",
    ["application/json", "Application/JSON; charset=utf-8", "application/merge-patch+json"],
)
async def test_every_way_to_say_json_is_taken(client: httpx.AsyncClient, content_type: str) -> None:
    headers = {"Content-Type": content_type}
    statuses = [
        answer.status_code for answer in await send_everywhere(client, b'{"name": "Lamp"}', headers)
    ]

    assert statuses == [201, 200, 200]


@pytest.mark.usefixtures("item")
@pytest.mark.parametrize("id_", BAD_IDS, ids=short)
async def test_a_bad_id_is_refused_by_every_operation(client: httpx.AsyncClient, id_: str) -> None:
    body = {"name": "Lamp"}
    path = f"/items/{id_}"
    for answer in [
        await client.get(path),
        await client.put(path, json=body),
        await client.patch(path, json=body),
        await client.delete(path),
        await client.delete(f"{path}?permanent=true"),
    ]:
        (error,) = check_refused(answer)
        assert error["parameter"] == "item_id"


@pytest.mark.parametrize(
    ("name", "value"),
    [(name, value) for name, values in BAD_QUERIES.items() for value in values],
    ids=short,
)
async def test_a_bad_parameter_is_refused_by_name(
    client: httpx.AsyncClient, name: str, value: str
) -> None:
    (error,) = check_refused(await client.get(f"/items?{name}={value}"))

    assert error["parameter"] == name


@pytest.mark.usefixtures("item")
@pytest.mark.parametrize("value", ["", "maybe", "2", "%00"])
async def test_a_delete_that_is_not_clear_deletes_nothing(
    client: httpx.AsyncClient, value: str
) -> None:
    (error,) = check_refused(await client.delete(f"/items/1?permanent={value}"))

    assert error["parameter"] == "permanent"


@pytest.mark.usefixtures("item")
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/items"),
        ("GET", "/items/1"),
        ("POST", "/items"),
        ("PUT", "/items/1"),
        ("PATCH", "/items/1"),
        ("DELETE", "/items/1"),
    ],
)
async def test_unknown_parameters_are_refused_by_name(
    client: httpx.AsyncClient, method: str, path: str
) -> None:
    body = {"name": "Lamp"} if method in ("POST", "PUT", "PATCH") else None
    answer = await client.request(method, f"{path}?colour=red&permanant=true", json=body)
    errors = check_refused(answer)

    assert {error["parameter"] for error in errors} == {"colour", "permanant"}


@pytest.mark.parametrize("path", ["/items", "/items/1"])
@pytest.mark.parametrize("name", ["", "%00", "%ff", "%ED%A0%80", "Page", "page%20", "q[]"])
async def test_every_parameter_but_the_known_ones_is_unknown(
    client: httpx.AsyncClient, path: str, name: str
) -> None:
    (error,) = check_refused(await client.get(f"{path}?{name}=1"))

    assert error.keys() == {"parameter", "detail"}


@pytest.mark.usefixtures("item")
async def test_a_body_over_the_limit_is_refused_however_it_is_sent(
    client: httpx.AsyncClient, settings: Settings
) -> None:
    filler = "x" * (settings.max_body_bytes - len('{"name": "Lamp", "filler": ""}') + 1)
    content = f'{{"name": "Lamp", "filler": "{filler}"}}'.encode()

    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(content), 65_536):
            yield content[start : start + 65_536]

    assert len(content) == settings.max_body_bytes + 1 == 1024 * 1024 + 1
    for method, path in [("POST", "/items"), ("PUT", "/items/1"), ("PATCH", "/items/1")]:
        whole = await client.request(method, path, content=content, headers=JSON)
        chunked = await client.request(method, path, content=chunks(), headers=JSON)

        assert "content-length" in whole.request.headers
        assert chunked.request.headers["transfer-encoding"] == "chunked"
        check_refused(whole, 413)
        check_refused(chunked, 413)


async def test_a_body_at_the_limit_is_taken(client: httpx.AsyncClient, settings: Settings) -> None:
    content = b'{"name": "Lamp"}'.ljust(settings.max_body_bytes)
    for answer in await send_everywhere(client, content, JSON):
        assert answer.status_code in (200, 201)


@pytest.mark.usefixtures("item")
async def test_a_body_without_end_is_not_read_to_its_end(
    client: httpx.AsyncClient, settings: Settings
) -> None:
    settings.max_body_bytes = 1000
    sent = 0

    async def chunks() -> AsyncIterator[bytes]:
        nonlocal sent
        for _ in range(1000):
            sent += 100
            yield b"[" * 100

    check_refused(await client.post("/items", content=chunks(), headers=JSON), 413)
    assert sent <= settings.max_body_bytes + 200


any_text = st.text(st.characters(exclude_categories=()), max_size=20)  # lone surrogates too
any_value = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | any_text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(any_text, inner, max_size=3),
    max_leaves=8,
)
any_body = st.fixed_dictionaries(
    {},
    optional={
        "name": st.just("Lamp") | any_value,
        "description": any_value,
        "price": st.integers(-1, 10**11) | st.floats(-1, 100) | any_value,
        "is_active": st.booleans() | any_value,
    },
)
several_examples = hypothesis_settings(
    deadline=None,
    max_examples=150,
    # The table need not be empty.
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@several_examples
@given(body=any_body | any_value)
async def test_whatever_is_sent_is_stored_as_sent_or_refused(
    client: httpx.AsyncClient, body: Any
) -> None:
    answer = await client.post("/items", content=json.dumps(body).encode(), headers=JSON)
    if answer.status_code == 201:
        item = answer.json()
        stored = (await client.get(answer.headers["location"])).json()

        assert stored == item
        assert item["name"]
        assert item["name"] in body["name"]
        assert item["price"] == body.get("price")
        assert item["is_active"] is body.get("is_active", True)
    else:
        check_refused(answer)


@several_examples
@given(
    params=st.dictionaries(
        st.sampled_from([b"page", b"per_page", b"is_active", b"q", b"sort"])
        | st.binary(max_size=5),
        st.integers().map(lambda number: str(number).encode()) | st.binary(max_size=10),
        max_size=3,
    )
)
async def test_whatever_is_asked_is_answered_or_refused(
    client: httpx.AsyncClient, params: dict[bytes, bytes]
) -> None:
    query = "&".join(f"{quote(name)}={quote(value)}" for name, value in params.items())
    answer = await client.get(f"/items?{query}")
    if answer.status_code != 200:
        check_refused(answer)
