"""The OpenAPI document describes each operation completely; its pages need no other host."""

import json
import re
from decimal import Decimal
from typing import Any

import httpx2 as httpx
import pytest
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from fastapi.testclient import TestClient

from service.main import create_app
from service.settings import Settings
from tests.support.apps import serving
from tests.support.commands import ROOT
from tests.support.openapi import example, operations, printed_document, resolve
from tests.support.samples import LAMP

# The errors of an operation follow from what it takes.
ERRORS_OF_PROTECTED = {400, 401, 403, 429, 500, 503}
DESCRIPTIONS_OF_FASTAPI = {"Successful Response", "Validation Error", ""}


@pytest.fixture
def document() -> Any:
    """The document of a service that uses API keys."""
    return json.loads(printed_document())


def declared_errors(operation: Any) -> set[int]:
    return {int(status) for status in operation["responses"] if status >= "400"}


def errors_of_input(method: str, path: str, operation: Any) -> set[int]:
    """Return the errors that the method, the parameters, the headers and the body can lead to."""
    errors = {404} if "{" in path else set()
    if method != "GET":
        errors.add(409)  # a unique column or a foreign key, which need no code
    for parameter in operation.get("parameters", []):
        errors |= {422, 412, 428} if parameter["name"] == "If-Match" else {422}
    if "requestBody" in operation:
        errors |= {413, 422}
        if len(operation["requestBody"]["content"]) > 1:
            errors.add(415)
    if len(success(operation).get("content", {})) > 1:
        errors.add(406)
    return errors


def success(operation: Any) -> Any:
    """Return the declaration of the successful response."""
    (status,) = (status for status in operation["responses"] if status.startswith("2"))
    return operation["responses"][status]


def test_each_operation_is_described(document: Any) -> None:
    found = operations(document).values()
    for operation in found:
        assert operation["summary"]
        assert operation["description"].rstrip().endswith(".")
        assert operation["operationId"].isidentifier()
        assert all(parameter.get("description") for parameter in operation.get("parameters", []))
        for response in operation["responses"].values():
            assert response["description"] not in DESCRIPTIONS_OF_FASTAPI
    assert len({operation["operationId"] for operation in found}) == len(found)


def test_each_operation_declares_the_errors_of_what_it_takes(document: Any) -> None:
    protected = {
        (method, path): operation
        for (method, path), operation in operations(document).items()
        if operation["security"]
    }

    assert protected
    for (method, path), operation in protected.items():
        expected = ERRORS_OF_PROTECTED | errors_of_input(method, path, operation)
        assert declared_errors(operation) == expected, (method, path)


def test_each_error_is_declared_as_a_problem(document: Any) -> None:
    for operation in operations(document).values():
        for status in declared_errors(operation):
            ((media_type, content),) = operation["responses"][str(status)]["content"].items()

            assert media_type == "application/problem+json"
            assert resolve(document, content["schema"])["title"] == "Problem"


def test_each_response_example_is_complete_and_valid(settings: Settings, document: Any) -> None:
    models = {
        route.name: route.response_model
        for route in iter_route_contexts(create_app(settings).routes)
        if getattr(route, "include_in_schema", False) and getattr(route, "response_model", None)
    }

    assert models
    for operation in operations(document).values():
        if model := models.get(operation["operationId"]):
            shown = json.dumps(example(document, success(operation)["content"]))
            read = model.model_validate(json.loads(shown, parse_float=Decimal))

            assert read.model_fields_set == model.model_fields.keys(), operation["operationId"]


async def test_each_example_can_be_sent_and_returns_what_is_declared(
    app: FastAPI, client: httpx.AsyncClient
) -> None:
    document = app.openapi()
    for (method, path), operation in operations(document).items():
        body = None
        if "requestBody" in operation:
            body = example(document, operation["requestBody"]["content"])
        answer = await client.request(method, re.sub("{.*}", "1", path), json=body)
        response = operation["responses"][str(answer.status_code)]

        assert answer.is_success
        if "application/json" in response.get("content", {}):
            schema = resolve(document, response["content"]["application/json"]["schema"])
            assert answer.headers["content-type"] == "application/json"
            assert answer.json().keys() == schema["properties"].keys()


def test_every_header_of_the_api_is_declared(document: Any) -> None:
    assert document["components"]["headers"].keys() >= {
        *("ETag", "Location", "Link", "Retry-After", "RateLimit", "RateLimit-Policy"),
        *("X-Request-ID", "Idempotency-Replayed"),
    }
    for operation in operations(document).values():
        for status, response in operation["responses"].items():
            names = response["headers"].keys()
            assert "X-Request-ID" in names
            assert ({"RateLimit", "RateLimit-Policy"} <= names) == bool(operation["security"])
            assert ("Retry-After" in names) == (status in ("409", "429", "503"))


async def test_the_declared_headers_are_sent(settings: Settings) -> None:
    settings.rate_limit_read = settings.rate_limit_write = "100/minute"
    key = {"Idempotency-Key": "one"}
    async with serving(app := create_app(settings)) as client:
        created = await client.post("/items", json=LAMP, headers=key)
        again = await client.post("/items", json=LAMP, headers=key)
        path = created.headers["location"]
        answers = {
            "create_item": again,
            "create_items": await client.post("/items/bulk", json={"items": [LAMP]}),
            "list_items": await client.get("/items"),
            "get_item": await client.get(path),
            "replace_item": await client.put(path, json=LAMP),
            "update_item": await client.patch(path, json=LAMP),
            "delete_item": await client.delete(path),
            "export_items": await client.get("/items/export"),
        }
    document = app.openapi()
    known = {name.lower() for name in document["components"]["headers"]}
    for operation in operations(document).values():
        if answer := answers.get(operation["operationId"]):
            declared = operation["responses"][str(answer.status_code)]["headers"]
            sent = {name for name in answer.headers if name in known}
            may_lack = {"idempotency-replayed"} if answer is not again else set()
            assert sent == {name.lower() for name in declared} - may_lack, answer.request.url


def test_the_type_of_a_problem_is_one_of_those_that_exist(document: Any) -> None:
    """The proxy and the server write some problems themselves."""
    declared = document["components"]["schemas"]["Problem"]["properties"]["type"]["enum"]
    written = re.findall(r"\$TYPE\"'([a-z-]+)", (ROOT / "docker/haproxy.cfg").read_text())
    sent = re.findall(
        r'_refuse\(\d+, "([a-z-]+)"', (ROOT / "service/server/protocol.py").read_text()
    )

    assert len(written) > 5
    assert sent
    assert {f"urn:items-service:{kind}" for kind in (*written, *sent)} <= {*declared}
    assert len({*declared}) == len(declared)


def test_no_field_of_a_request_is_required_for_its_default(document: Any) -> None:
    """Generators for TypeScript take a property with a default for one that is always there."""
    for schema in document["components"]["schemas"].values():
        optional = schema.get("properties", {}).keys() - schema.get("required", [])
        assert all("default" not in schema["properties"][name] for name in optional)


def test_each_sort_has_a_name_for_generators(document: Any) -> None:
    sorts = [
        parameter["schema"]
        for operation in operations(document).values()
        for parameter in operation.get("parameters", [])
        if parameter["name"] == "sort"
    ]
    assert sorts
    for schema in sorts:
        names = dict(zip(schema["x-enum-varnames"], schema["enum"], strict=True))
        assert names["created_at_desc"] == "-created_at"
        assert all(name.isidentifier() for name in names)


def test_no_number_is_a_multiple_of_a_fraction(document: Any) -> None:
    """In binary 0.07 / 0.01 is not whole: a client that checks it would refuse a valid price."""
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
