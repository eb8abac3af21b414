"""Every error is a problem (RFC 9457) that says what its client needs, and nothing more."""

import asyncio
import re
from collections.abc import Iterator
from typing import Any

import httpx2 as httpx
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from pydantic import SecretStr
from sqlalchemy import text

from service.database import transactional
from service.main import create_app
from service.settings import Settings
from tests.support.apps import serving
from tests.support.problems import MARK, check_problem

EVERY_CALL = [
    ("POST", "/items", {"name": MARK}),
    ("GET", "/items", None),
    ("GET", f"/items?q={MARK}", None),
    ("GET", "/items/1", None),
    ("HEAD", "/items/1", None),
    ("PUT", "/items/1", {"name": MARK}),
    ("PATCH", "/items/1", {"name": MARK}),
    ("PATCH", "/items/1", {}),
    ("DELETE", "/items/1", None),
    ("DELETE", "/items/1?permanent=true", None),
]


async def test_an_unknown_path_is_a_404(client: httpx.AsyncClient) -> None:
    for path in ("/", "/item", "/items/1/parts", "/health/none", "/favicon.ico"):
        check_problem(await client.get(path), 404, "not-found")
    check_problem(await client.post("/item", json={}), 404, "not-found")


async def test_a_missing_item_is_a_404(client: httpx.AsyncClient) -> None:
    check_problem(await client.get("/items/1"), 404, "not-found")


async def test_a_405_names_every_method_of_the_path(client: httpx.AsyncClient) -> None:
    paths = (await client.get("/openapi.json")).json()["paths"]
    assert paths.keys() >= {"/items", "/items/{item_id}", "/health"}
    for path, operations in paths.items():
        allowed = {method.upper() for method in operations}
        allowed |= {"HEAD"} if "GET" in allowed else set()
        others = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"} - allowed
        for method in others:
            answer = await client.request(method, re.sub("{.*}", "1", path))

            assert answer.status_code == 405
            if method != "HEAD":
                check_problem(answer, 405, "method-not-allowed")
            assert set(answer.headers["allow"].split(", ")) == allowed


async def test_a_405_of_the_documentation_names_its_methods(client: httpx.AsyncClient) -> None:
    for path in ("/docs", "/openapi.json", "/static-offline-docs/favicon.png"):
        answer = await client.post(path)

        check_problem(answer, 405, "method-not-allowed")
        assert set(answer.headers["allow"].split(", ")) == {"GET", "HEAD"}


async def test_a_method_that_nobody_knows_is_not_repeated(client: httpx.AsyncClient) -> None:
    answer = await client.request(MARK.upper(), "/items")

    check_problem(answer, 405, "method-not-allowed")
    assert MARK.upper() not in answer.text


async def test_a_large_body_is_a_413(client: httpx.AsyncClient, settings: Settings) -> None:
    content = b'{"name": "Lamp"}'.ljust(settings.max_body_bytes + 1)
    headers = {"Content-Type": "application/json"}
    check_problem(
        await client.post("/items", content=content, headers=headers), 413, "body-too-large"
    )


@pytest.mark.parametrize(
    ("body", "pointers"),
    [
        ({"name": MARK, "price": MARK}, ["#/price"]),
        ({"description": MARK, "price": -1, "name": None}, ["#/name", "#/price"]),
        ([MARK], ["#"]),
        (MARK, ["#"]),
    ],
    ids=str,
)
async def test_a_422_points_into_the_body_and_does_not_repeat_it(
    client: httpx.AsyncClient, body: Any, pointers: list[str]
) -> None:
    problem = check_problem(await client.post("/items", json=body), 422, "invalid-input")

    assert [error["pointer"] for error in problem["errors"]] == pointers
    assert all(error.keys() == {"pointer", "detail"} for error in problem["errors"])
    assert all(error["detail"] for error in problem["errors"])


@pytest.mark.parametrize(
    "content",
    [f'{{"name": "{MARK}"', f'"\\{MARK}"', f"{{{MARK}: 1}}", f'{{"name": "{MARK}", "price": NaN}}'],
)
async def test_a_422_of_broken_json_does_not_repeat_it(
    client: httpx.AsyncClient, content: str
) -> None:
    headers = {"Content-Type": "application/json"}
    answer = await client.post("/items", content=content, headers=headers)
    problem = check_problem(answer, 422, "invalid-input")

    assert [error["pointer"] for error in problem["errors"]] == ["#"]


@pytest.mark.parametrize(
    ("query", "names"),
    [
        (f"page={MARK}", ["page"]),
        (f"sort={MARK}", ["sort"]),
        (f"is_active={MARK}&per_page=0", ["is_active", "per_page"]),
        (f"q={MARK}%00", ["q"]),
        (f"colour={MARK}", ["colour"]),
        (f"q=a&size={MARK}&colour={MARK}", ["colour", "size"]),
    ],
)
async def test_a_422_names_the_parameters_and_does_not_repeat_their_values(
    client: httpx.AsyncClient, query: str, names: list[str]
) -> None:
    problem = check_problem(await client.get(f"/items?{query}"), 422, "invalid-input")

    assert sorted(error["parameter"] for error in problem["errors"]) == names
    assert all(error.keys() == {"parameter", "detail"} for error in problem["errors"])


async def test_an_endless_parameter_name_is_cut(client: httpx.AsyncClient) -> None:
    for path in ("/items", "/items/1"):
        answer = await client.get(f"{path}?{'x' * 5000}=1")

        check_problem(answer, 422, "invalid-input")
        assert len(answer.content) < 1000


@pytest.mark.parametrize("path", ["/%00", "/items/%ff", "/items/%22%3Cscript%3E", "/%ED%A0%80"])
async def test_an_instance_is_a_uri_whatever_the_path(client: httpx.AsyncClient, path: str) -> None:
    answer = await client.get(path)

    assert answer.status_code in (404, 422)
    assert re.fullmatch(r"[/\w.~%-]+", answer.json()["instance"], re.ASCII)


async def test_a_problem_carries_the_request_id_that_the_client_chose(
    client: httpx.AsyncClient,
) -> None:
    answer = await client.get("/items/1", headers={"X-Request-ID": "checkout-17"})

    assert check_problem(answer, 404, "not-found")["request_id"] == "checkout-17"


async def test_what_nobody_handled_is_a_500_that_tells_nothing(
    client: httpx.AsyncClient, app: FastAPI
) -> None:
    @app.get("/broken")
    async def broken() -> None:
        raise ValueError(f"INSERT INTO secrets VALUES ('{MARK}')")

    check_problem(await client.get("/broken"), 500, "internal-error")
    assert (await client.get("/health")).status_code == 200  # the service lives on


async def test_a_fault_of_the_database_that_nobody_foresaw_is_a_500_that_tells_nothing(
    client: httpx.AsyncClient, app: FastAPI
) -> None:
    async with transactional(app.state.engine).begin() as conn:
        await conn.execute(
            text(
                f"CREATE FUNCTION break_it() RETURNS trigger LANGUAGE plpgsql AS "
                f"$$ BEGIN RAISE EXCEPTION 'SELECT {MARK}'; END $$"
            )
        )
        await conn.execute(
            text(
                "CREATE TRIGGER break_it BEFORE INSERT ON items "
                "FOR EACH ROW EXECUTE FUNCTION break_it()"
            )
        )
    try:
        answer = await client.post("/items", json={"name": "Lamp"})
    finally:
        async with transactional(app.state.engine).begin() as conn:
            await conn.execute(text("DROP FUNCTION break_it CASCADE"))

    check_problem(answer, 500, "internal-error")
    assert (await client.get("/items")).json()["total"] == 0


async def test_what_the_schema_lets_pass_the_database_refuses_as_a_422(
    client: httpx.AsyncClient, app: FastAPI
) -> None:
    async with transactional(app.state.engine).begin() as conn:
        await conn.execute(text("ALTER TABLE items ADD CHECK (name <> 'Lamp')"))
    try:
        answer = await client.post("/items", json={"name": "Lamp", "description": MARK})
    finally:
        async with transactional(app.state.engine).begin() as conn:
            await conn.execute(text("ALTER TABLE items DROP CONSTRAINT items_name_check"))

    check_problem(answer, 422, "invalid-input")
    assert (await client.get("/items")).json()["total"] == 0


@pytest.fixture
def without_database(settings: Settings) -> Iterator[TestClient]:
    """A client of a service whose database does not exist: nothing listens on its port."""
    settings.database_url = SecretStr(f"postgresql://{MARK}:{MARK}@127.0.0.1:1/{MARK}")
    with TestClient(create_app(settings)) as client:
        yield client


@pytest.mark.parametrize(("method", "path", "body"), EVERY_CALL)
def test_without_a_database_every_call_is_a_503(
    without_database: TestClient, method: str, path: str, body: Any
) -> None:
    answer = without_database.request(method, path, json=body)

    assert int(answer.headers["retry-after"]) > 0
    if method == "HEAD":
        assert (answer.status_code, answer.content) == (503, b"")
    else:
        check_problem(answer, 503, "unavailable")


def test_without_a_database_bad_input_is_still_a_422(without_database: TestClient) -> None:
    check_problem(without_database.post("/items", json={}), 422, "invalid-input")
    check_problem(without_database.get("/items?per_page=0"), 422, "invalid-input")


def test_with_a_schema_never_migrated_every_call_is_a_503(
    settings: Settings, empty_database_url: str
) -> None:
    settings.database_url = SecretStr(empty_database_url)
    with TestClient(create_app(settings)) as client:
        for method, path, body in EVERY_CALL:
            answer = client.request(method, path, json=body)

            assert int(answer.headers["retry-after"]) > 0
            if method != "HEAD":
                check_problem(answer, 503, "unavailable")


async def test_a_pool_with_no_connection_left_is_a_503(settings: Settings) -> None:
    settings.pool_size, settings.max_overflow, settings.pool_timeout = 1, 0, 0.05
    app = create_app(settings)
    async with serving(app) as client:
        async with app.state.engine.connect():
            for path in ("/health", "/items", "/items/1"):
                check_problem(await client.get(path), 503, "unavailable")
        assert (await client.get("/items")).status_code == 200


async def test_more_calls_than_may_wait_are_a_503(settings: Settings) -> None:
    settings.queue_limit = 1
    app = create_app(settings)
    async with serving(app) as client:
        async with transactional(app.state.engine).begin() as conn:
            await conn.execute(text("LOCK TABLE items"))  # nobody reads meanwhile
            calls = [asyncio.create_task(client.get("/items/0")) for _ in range(10)]
            (first, *_), _ = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
        answers = await asyncio.gather(*calls)

    check_problem(first.result(), 503, "unavailable")
    assert int(first.result().headers["retry-after"]) > 0
    assert {answer.status_code for answer in answers} == {404, 503}  # those that waited are served


async def test_head_answers_wherever_get_does_and_without_a_body(client: httpx.AsyncClient) -> None:
    paths = list((await client.get("/openapi.json")).json()["paths"])
    paths += ["/docs", "/redoc", "/openapi.json", "/items?per_page=0", "/nowhere"]
    for path in paths:
        address = re.sub("{.*}", "1", path)
        head, get = await client.head(address), await client.get(address)

        assert (head.status_code, head.content) == (get.status_code, b"")
        assert head.headers["content-type"] == get.headers["content-type"]
        # Problems differ by the length of their request ids.
        if get.is_success and "content-length" in get.headers:  # a stream has none
            assert head.headers["content-length"] == str(len(get.content))
