"""Every error response is a problem (RFC 9457) that reveals neither input nor internals."""

import re

import httpx2 as httpx
import pytest
from fastapi import FastAPI
from pydantic import SecretStr

from service.main import create_app
from service.settings import Settings
from tests.support.apps import execute, serving
from tests.support.problems import MARK, check_problem
from tests.support.samples import LAMP

JSON = {"Content-Type": "application/json"}
# Statements after which the database refuses each new item: as bad data, or for another reason.
ADD_CONSTRAINT = ["ALTER TABLE items ADD CHECK (name = 'never')"]
ADD_TRIGGER = [
    "CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql"
    f" AS $$ BEGIN RAISE EXCEPTION 'SELECT {MARK}'; END $$",
    "CREATE TRIGGER fail BEFORE INSERT ON items FOR EACH ROW EXECUTE FUNCTION fail()",
]


async def test_an_unknown_path_returns_404(client: httpx.AsyncClient) -> None:
    for path in ("/", "/item", "/items/1/parts", "/health/none", "/favicon.ico"):
        for method in ("GET", "POST"):
            problem = check_problem(await client.request(method, path), 404, "not-found")

            assert problem["detail"] == "There is no such path"


@pytest.mark.parametrize(
    ("content", "pointers"),
    [
        (f'{{"name": "{MARK}", "price": "{MARK}"}}', ["#/price"]),
        (f'{{"description": "{MARK}", "price": -1}}', ["#/name", "#/price"]),
        (f'["{MARK}"]', ["#"]),
        (f'{{"name": "{MARK}"', ["#"]),
        (f'{{"name": "{MARK}", "price": NaN}}', ["#"]),
    ],
)
async def test_a_422_points_into_the_body_and_does_not_repeat_it(
    client: httpx.AsyncClient, content: str, pointers: list[str]
) -> None:
    answer = await client.post("/items", content=content, headers=JSON)
    problem = check_problem(answer, 422, "invalid-input")

    assert [error["pointer"] for error in problem["errors"]] == pointers
    assert all(error.keys() == {"pointer", "detail"} for error in problem["errors"])
    assert all(error["detail"] for error in problem["errors"])


@pytest.mark.parametrize(
    ("query", "names"),
    [
        (f"page={MARK}", ["page"]),
        (f"is_active={MARK}&per_page=0", ["is_active", "per_page"]),
        (f"q=a&size={MARK}&colour={MARK}", ["colour", "size"]),
    ],
)
async def test_a_422_names_the_parameters_and_does_not_repeat_their_values(
    client: httpx.AsyncClient, query: str, names: list[str]
) -> None:
    problem = check_problem(await client.get(f"/items?{query}"), 422, "invalid-input")

    assert sorted(error["parameter"] for error in problem["errors"]) == names
    assert all(error.keys() == {"parameter", "detail"} for error in problem["errors"])


async def test_a_422_cuts_a_long_parameter_name(client: httpx.AsyncClient) -> None:
    for path in ("/items", "/items/1"):
        answer = await client.get(f"{path}?{'x' * 5000}=1")
        (error,) = check_problem(answer, 422, "invalid-input")["errors"]

        assert error["parameter"] == "x" * 100


@pytest.mark.parametrize("path", ["/%00", "/items/%ff", "/items/%22%3Cscript%3E", "/%ED%A0%80"])
async def test_the_instance_of_a_problem_is_always_a_uri(
    client: httpx.AsyncClient, path: str
) -> None:
    answer = await client.get(path)

    assert answer.status_code in (404, 422)
    assert re.fullmatch(r"[/\w.~%-]+", answer.json()["instance"], re.ASCII)


async def test_an_unhandled_exception_returns_500_without_its_text(
    client: httpx.AsyncClient, app: FastAPI
) -> None:
    @app.get("/broken")
    async def broken() -> None:
        raise ValueError(f"INSERT INTO secrets VALUES ('{MARK}')")

    check_problem(await client.get("/broken"), 500, "internal-error")
    assert (await client.get("/health")).status_code == 200  # the service goes on


@pytest.mark.parametrize(
    ("statements", "status", "kind"),
    [(ADD_CONSTRAINT, 422, "invalid-input"), (ADD_TRIGGER, 500, "internal-error")],
)
async def test_an_item_that_only_the_database_refuses_is_not_stored(
    settings: Settings, own_database_url: str, statements: list[str], status: int, kind: str
) -> None:
    settings.database_url = SecretStr(own_database_url)
    app = create_app(settings)
    async with serving(app) as client:
        await execute(app, *statements)
        answer = await client.post("/items", json=LAMP | {"description": MARK})

        check_problem(answer, status, kind)
        assert (await client.get("/items")).json()["total"] == 0
