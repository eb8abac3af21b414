"""The OpenAPI document describes each operation completely; its pages need no other host."""

import json
import re
from decimal import Decimal
from typing import Any

import httpx2 as httpx
import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient

from service.main import create_app
from service.settings import Settings
from tests.support.openapi import example, operations, printed_document, resolve

# The errors of an operation follow from what it takes.
ERRORS_OF_PROTECTED = {401, 403, 429, 500, 503}
ERRORS_OF_HEADERS = {"If-Match": {400, 412, 428}, "Idempotency-Key": {400, 409}}
DESCRIPTIONS_OF_FASTAPI = {"Successful Response", "Validation Error", ""}


@pytest.fixture
def document() -> Any:
    """The document of a service that uses API keys."""
    return json.loads(printed_document())


def declared_errors(operation: Any) -> set[int]:
    return {int(status) for status in operation["responses"] if status >= "400"}


def errors_of_input(path: str, operation: Any) -> set[int]:
    """Return the errors that the parameters, the headers and the body can lead to."""
    errors = {404} if "{" in path else set()
    for parameter in operation.get("parameters", []):
        errors |= {422} | ERRORS_OF_HEADERS.get(parameter["name"], set())
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
        if "security" in operation
    }

    assert protected
    for (method, path), operation in protected.items():
        expected = ERRORS_OF_PROTECTED | errors_of_input(path, operation)
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
        for route in create_app(settings).routes
        if isinstance(route, APIRoute) and route.include_in_schema and route.response_model
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
