"""Bad input is refused with an error that names it, and nothing is stored or changed."""

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx2 as httpx
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from service.settings import Settings
from tests.support.problems import check_problem

JSON = {"Content-Type": "application/json"}
LAMP = b'{"name": "Lamp"}'
INT64_MAX = 2**63 - 1

# Values as JSON text, since a JSON library cannot write many of them.
BLANK = r'" \t\n\u00a0\u2003\u3000 "'
BAD_TEXTS = [r'"nul \u0000 inside"', r'"\ud800"', "5", "true", '["text"]', "{}"]
BAD_PRICES = [
    *("-0.01", "-1e-30", "0.001", "9999999999.991", "10000000000", "1e10"),
    *("0.123456789012345678901234567890", "1" * 5000),
    *("1e400", "-1e1000000000000000000", "1e-1000000000000000000"),
    *("NaN", "Infinity", "-Infinity", '"29.99"', "true", "[29.99]", "{}"),
]
BAD_VALUES = {
    "name": ['""', BLANK, f'"{"n" * 256}"', "null", *BAD_TEXTS],
    "description": [f'"{"d" * 10_001}"', *BAD_TEXTS],
    "price": BAD_PRICES,
    "is_active": ["null", '"true"', '""', "0", "1", "0.0", "[]"],
}
DEEP = 100_000
BAD_BODIES = [
    b"",
    b"null",
    b'[{"name": "Lamp"}]',
    b'{"name": "Lamp"',
    b'{"name": "Lamp",}',
    b'{"name": "Lamp"} {}',
    b'{"name": "new\nline"}',
    b'{"name": "Lamp", "colour": NaN}',
    b'{"name": "\xff"}',
    '{"name": "Lamp"}'.encode("utf-16"),
    b"[" * DEEP,
    b'{"name": "Lamp", "colour": ' + b"[" * DEEP + b"]" * DEEP + b"}",
    b'{"name": "Lamp", "colour": [' + b"0," * 200_000 + b"0]}",
]
BAD_IDS = [str(INT64_MAX + 1), str(-INT64_MAX - 2), "1" * 5000]
BAD_IDS += ["abc", "1.0", "1_0", "+1", "0x1", "1%00", "%ff", "%ED%A0%80"]
BAD_INTEGERS = ["0", "-1", str(INT64_MAX + 1), "1" * 5000, "1.0", "1_0", "one", "", "%00"]
BAD_PARAMETERS = {
    "page": BAD_INTEGERS,
    "per_page": ["101", *BAD_INTEGERS],
    "is_active": ["", "maybe", "2", "%00"],
    "q": ["%00", "a%00b", "%ED%A0%80", "%ff"],
    "sort": ["", "colour", "--id", "ID", "id,name", "+id", "description"],
    "permanent": ["", "maybe", "2", "%00"],
}


@pytest.fixture
async def item(client: httpx.AsyncClient) -> AsyncIterator[Any]:
    """An item, which must be the only one after the test, and unchanged."""
    item = (await client.post("/items", json={"name": "Only", "price": 1})).json()
    yield item
    assert (await client.get("/items")).json()["items"] == [item]


def check_refused(answer: httpx.Response, sent: object = "") -> list[dict[str, str]]:
    """Assert that the response is a 422; return its errors. `sent` is shown if it is not."""
    assert answer.status_code == 422, f"{sent!s:.60}"
    errors: list[dict[str, str]] = answer.json()["errors"]
    assert errors
    return errors


async def send_everywhere(
    client: httpx.AsyncClient, content: bytes, headers: dict[str, str] = JSON
) -> list[httpx.Response]:
    """Create, replace and change an item with this body."""
    return [
        await client.request(method, path, content=content, headers=headers)
        for method, path in [("POST", "/items"), ("PUT", "/items/1"), ("PATCH", "/items/1")]
    ]


@pytest.mark.usefixtures("item")
@pytest.mark.parametrize("field", BAD_VALUES)
async def test_a_bad_value_is_refused_by_its_field(client: httpx.AsyncClient, field: str) -> None:
    for value in BAD_VALUES[field]:
        fields = {"name": '"Lamp"', field: value}
        body = ", ".join(f'"{name}": {value}' for name, value in fields.items())
        for answer in await send_everywhere(client, f"{{{body}}}".encode()):
            (error,) = check_refused(answer, value)
            is_json = "not valid JSON" not in error["detail"]
            assert error["pointer"] == (f"#/{field}" if is_json else "#")


@pytest.mark.usefixtures("item")
async def test_a_body_that_is_no_json_object_is_refused(client: httpx.AsyncClient) -> None:
    for content in BAD_BODIES:
        for answer in await send_everywhere(client, content):
            assert [error["pointer"] for error in check_refused(answer, content)] == ["#"]


@pytest.mark.usefixtures("item")
@pytest.mark.parametrize("content_type", [None, "", "json", "text/x+json", "application/xml"])
async def test_a_body_of_another_content_type_is_refused(
    client: httpx.AsyncClient, content_type: str | None
) -> None:
    headers = {} if content_type is None else {"Content-Type": content_type}
    for answer in await send_everywhere(client, LAMP, headers):
        if answer.request.method == "PATCH" and content_type:
            check_problem(answer, 415, "unsupported-media-type")
            assert "application/merge-patch+json" in answer.headers["accept-patch"]
        else:
            (error,) = check_refused(answer)
            assert error["parameter"] == "Content-Type"


@pytest.mark.parametrize(
    "content_type",
    ["application/json", "Application/JSON; charset=utf-8", "application/merge-patch+json"],
)
async def test_every_json_content_type_is_accepted(
    client: httpx.AsyncClient, content_type: str
) -> None:
    answers = await send_everywhere(client, LAMP, {"Content-Type": content_type})

    assert [answer.status_code for answer in answers] == [201, 200, 200]


@pytest.mark.usefixtures("item")
async def test_a_bad_id_is_refused_by_every_operation(client: httpx.AsyncClient) -> None:
    for id_ in BAD_IDS:
        for method in ("GET", "PUT", "PATCH", "DELETE"):
            body = {"name": "Lamp"} if method in ("PUT", "PATCH") else None
            answer = await client.request(method, f"/items/{id_}", json=body)
            (error,) = check_refused(answer, id_)

            assert error["parameter"] == "item_id"


@pytest.mark.usefixtures("item")
@pytest.mark.parametrize("name", BAD_PARAMETERS)
async def test_a_bad_parameter_is_refused_by_name(client: httpx.AsyncClient, name: str) -> None:
    method, path = ("DELETE", "/items/1") if name == "permanent" else ("GET", "/items")
    for value in BAD_PARAMETERS[name]:
        (error,) = check_refused(await client.request(method, f"{path}?{name}={value}"), value)

        assert error["parameter"] == name


@pytest.mark.usefixtures("item")
async def test_unknown_parameters_are_refused_by_every_operation(
    client: httpx.AsyncClient,
) -> None:
    paths = {
        "/items": ("GET", "POST"),
        "/items/1": ("GET", "PUT", "PATCH", "DELETE"),
        "/items/bulk": ("POST",),
    }
    for path, methods in paths.items():
        for method in methods:
            body = {"name": "Lamp"} if method in ("POST", "PUT", "PATCH") else None
            answer = await client.request(method, f"{path}?colour=red&permanant=true", json=body)
            errors = check_refused(answer, method)

            assert {error["parameter"] for error in errors} == {"colour", "permanant"}


async def test_any_other_parameter_name_is_unknown(client: httpx.AsyncClient) -> None:
    for path in ("/items", "/items/1"):
        for name in ("", "%00", "%ff", "%ED%A0%80", "Page", "page%20", "q[]"):
            (error,) = check_refused(await client.get(f"{path}?{name}=1"), name)

            assert error.keys() == {"parameter", "detail"}


async def test_a_body_may_be_as_large_as_the_limit_of_its_operation(
    client: httpx.AsyncClient, settings: Settings
) -> None:
    async def in_chunks(content: bytes) -> AsyncIterator[bytes]:
        yield content[:50]
        yield content[50:]

    bulk = b'{"items": [{"name": "Lamp"}]}'
    operations = [
        ("POST", "/items", LAMP, 100),
        ("PUT", "/items/1", LAMP, 100),
        ("PATCH", "/items/1", LAMP, 100),
        ("POST", "/items/bulk", bulk, 200),
    ]
    settings.max_body_bytes, settings.max_bulk_bytes = 100, 200
    for method, path, body, limit in operations:
        for size in (limit, limit + 1):
            content = body.ljust(size)
            whole = await client.request(method, path, content=content, headers=JSON)
            chunked = await client.request(method, path, content=in_chunks(content), headers=JSON)

            assert "content-length" in whole.request.headers
            assert "content-length" not in chunked.request.headers
            for answer in (whole, chunked):
                if size == limit:
                    assert answer.is_success
                else:
                    check_problem(answer, 413, "body-too-large")


async def test_an_endless_body_is_not_read_beyond_the_limit(
    client: httpx.AsyncClient, settings: Settings
) -> None:
    settings.max_body_bytes = 1000
    sent = 0

    async def chunks() -> AsyncIterator[bytes]:
        nonlocal sent
        for _ in range(1000):
            sent += 100
            yield b"[" * 100

    answer = await client.post("/items", content=chunks(), headers=JSON)

    check_problem(answer, 413, "body-too-large")
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


@hypothesis_settings(
    deadline=None,
    derandomize=True,
    max_examples=50,
    # The examples share the application, and need no empty table. How fast they are generated
    # depends on the machine.
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(body=any_body | any_value)
async def test_any_body_is_stored_as_sent_or_refused(client: httpx.AsyncClient, body: Any) -> None:
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
        check_refused(answer, body)
