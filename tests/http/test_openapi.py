"""The OpenAPI document says what the service does, and its pages need no other host."""

import json
import re
from decimal import Decimal
from typing import Any

import httpx2 as httpx
import pytest
from fastapi.testclient import TestClient

from service.main import create_app
from service.routers.system import Health, HealthOverview
from service.schemas.base import Schema
from service.schemas.item import ItemRead, ItemsCreated
from service.schemas.item_list import ItemList
from service.settings import Settings

# What each operation answers with when all is well, and which errors are its own.
OPERATIONS: dict[tuple[str, str], tuple[int, type[Schema] | None, set[int]]] = {
    ("POST", "/items/bulk"): (201, ItemsCreated, {400, 409, 413, 422}),
    ("GET", "/items/export"): (200, None, {406, 422}),
    ("POST", "/items"): (201, ItemRead, {400, 409, 413, 422}),
    ("GET", "/items"): (200, ItemList, {422}),
    ("GET", "/items/{item_id}"): (200, ItemRead, {404, 422}),
    ("PUT", "/items/{item_id}"): (200, ItemRead, {400, 404, 412, 413, 422, 428}),
    ("PATCH", "/items/{item_id}"): (200, ItemRead, {400, 404, 412, 413, 415, 422, 428}),
    ("DELETE", "/items/{item_id}"): (204, None, {400, 404, 412, 422, 428}),
    ("GET", "/health"): (200, HealthOverview, {503}),
    ("GET", "/health/live"): (200, Health, set()),
    ("GET", "/health/ready"): (200, Health, {503}),
}
each_operation = pytest.mark.parametrize(("method", "path"), OPERATIONS)
NAMES_OF_FRAMEWORK = {"Successful Response", "Validation Error", ""}


@pytest.fixture
def document(settings: Settings) -> Any:
    """The document, as the service sends it."""
    return TestClient(create_app(settings)).get("/openapi.json").json()


def resolve(document: Any, schema: Any) -> Any:
    """The schema itself, where there is a reference to it."""
    if "$ref" in schema:
        return document["components"]["schemas"][schema["$ref"].rsplit("/", 1)[1]]
    return schema


def example(document: Any, content: Any) -> Any:
    """What the document shows as an example of this content."""
    media_type = content["application/json"]
    return media_type.get("example") or resolve(document, media_type["schema"])["example"]


def as_read(content: Any) -> Any:
    """JSON as the service reads it: a number with a fraction is exact."""
    return json.loads(json.dumps(content), parse_float=Decimal)


def test_the_document_has_exactly_the_operations_of_the_service(document: Any) -> None:
    described = {
        (method.upper(), path) for path, methods in document["paths"].items() for method in methods
    }

    assert described == OPERATIONS.keys()


@each_operation
def test_each_operation_says_what_it_is(document: Any, method: str, path: str) -> None:
    operation = document["paths"][path][method.lower()]

    assert operation["summary"]
    assert operation["description"].rstrip().endswith(".")
    assert operation["operationId"].isidentifier()
    assert all(parameter.get("description") for parameter in operation.get("parameters", []))


def test_the_operations_have_names_of_their_own(document: Any) -> None:
    names = [
        operation["operationId"]
        for methods in document["paths"].values()
        for operation in methods.values()
    ]

    assert len(names) == len(set(names)) == len(OPERATIONS)


@each_operation
def test_each_response_is_named(document: Any, method: str, path: str) -> None:
    status, _, errors = OPERATIONS[method, path]
    responses = document["paths"][path][method.lower()]["responses"]
    common = {429, 500, 503} if not path.startswith("/health") else set()

    assert {str(status), *map(str, errors | common)} <= responses.keys()
    for response in responses.values():
        assert response["description"] not in NAMES_OF_FRAMEWORK


@each_operation
def test_each_error_is_declared_as_a_problem(document: Any, method: str, path: str) -> None:
    for status, response in document["paths"][path][method.lower()]["responses"].items():
        if status >= "400":
            schema = response["content"]["application/problem+json"]["schema"]

            assert response["content"].keys() == {"application/problem+json"}
            assert resolve(document, schema)["title"] == "Problem"


@each_operation
def test_each_operation_shows_an_example_that_is_right(
    document: Any, method: str, path: str
) -> None:
    status, model, _ = OPERATIONS[method, path]
    operation = document["paths"][path][method.lower()]
    if model:
        shown = example(document, operation["responses"][str(status)]["content"])
        assert model.model_validate(as_read(shown)).model_fields_set == model.model_fields.keys()
    else:
        assert any(parameter["schema"].get("examples") for parameter in operation["parameters"])


async def test_the_examples_of_bodies_work_when_sent(client: httpx.AsyncClient) -> None:
    document = (await client.get("/openapi.json")).json()
    for method, path in [
        ("POST", "/items"),
        ("PUT", "/items/{item_id}"),
        ("PATCH", "/items/{item_id}"),
    ]:
        content = document["paths"][path][method.lower()]["requestBody"]["content"]
        shown = example(document, content)
        answer = await client.request(method, re.sub("{.*}", "1", path), json=shown)

        assert answer.status_code == OPERATIONS[method, path][0]
        assert shown.items() <= answer.json().items()


async def test_what_is_sent_is_what_is_declared(client: httpx.AsyncClient) -> None:
    document = (await client.get("/openapi.json")).json()
    items = [{"name": "Lamp"}, {"name": "Lamp", "description": "Warm", "price": 29.99}]
    for (method, path), (status, model, _) in OPERATIONS.items():
        if path == "/items/export":  # not JSON: see test_export.py
            continue
        bodies: list[Any] = items if method in ("POST", "PUT", "PATCH") else [None]
        for body in bodies if path != "/items/bulk" else [{"items": items}]:
            answer = await client.request(method, re.sub("{.*}", "1", path), json=body)
            assert answer.status_code == status
            if not model:
                assert answer.content == b""
                continue
            content = document["paths"][path][method.lower()]["responses"][str(status)]["content"]
            schema = resolve(document, content["application/json"]["schema"])

            assert answer.headers["content-type"] == "application/json"
            assert answer.json().keys() == schema["properties"].keys()
            assert model.model_validate(as_read(answer.json())).model_fields_set == set(
                schema["properties"]
            )


async def test_an_item_in_a_list_is_what_is_declared(client: httpx.AsyncClient) -> None:
    await client.post("/items", json={"name": "Lamp", "price": 29.99})
    page = (await client.get("/items")).json()

    assert ItemList.model_validate(as_read(page)).items[0].price == Decimal("29.99")
    assert page["items"][0].keys() == ItemRead.model_fields.keys()


def test_no_number_is_declared_a_multiple_of_a_fraction(document: Any) -> None:
    """In binary, 0.07 / 0.01 is not whole: a client that checks would refuse right prices."""
    assert 0.07 / 0.01 != 7
    assert "multipleOf" not in json.dumps(document)


@pytest.mark.parametrize("page", ["/docs", "/docs/oauth2-redirect"])
def test_the_pages_refer_to_no_other_host(settings: Settings, page: str) -> None:
    client = TestClient(create_app(settings))
    html = client.get(page)
    addresses = re.findall(r"""(?:src|href|url|spec-url)\s*[=:]\s*["']([^"']+)""", html.text)

    assert html.status_code == 200
    assert html.headers["content-type"].startswith("text/html")
    assert not re.search(r"""["'(]\s*(?:https?:)?//""", html.text)
    assert page == "/docs/oauth2-redirect" or {"/openapi.json"} < set(addresses)
    for address in addresses:
        answer = client.get(address)
        assert answer.status_code == 200
        assert len(answer.content) > 1000
        if address.endswith(".css"):
            assert not re.search(r"url\(\s*[\"']?(?:https?:)?//|@import", answer.text)


def test_the_documentation_can_be_turned_off(settings: Settings) -> None:
    settings.docs_enabled = False
    client = TestClient(create_app(settings))
    for path in (
        "/docs",
        "/docs/oauth2-redirect",
        "/redoc",
        "/openapi.json",
        "/static-offline-docs/swagger-ui.css",
    ):
        assert client.get(path).status_code == 404
    assert client.get("/health/live").status_code == 200
