"""The OpenAPI document is valid, committed and true: Schemathesis holds the live service to it.

Schemathesis runs as a process of its own, as anyone would run it, and there it imports this module
for the hooks at the end.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from fastapi.testclient import TestClient
from openapi_spec_validator import OpenAPIV31SpecValidator
from schemathesis.core.failures import AcceptedNegativeData, Failure
from schemathesis.openapi.checks import RejectedPositiveData

from service.keys import SCOPES, create_key, parse_keys
from service.main import create_app
from service.schemas.item_list import DEEPEST
from service.settings import Settings
from tests.support.commands import ROOT, TRACING, clean_environment, run
from tests.support.processes import running

COMMITTED = ROOT / "openapi.json"
OPERATION_IDS = {
    ("POST", "/items"): "create_item",
    ("GET", "/items"): "list_items",
    ("GET", "/items/{item_id}"): "get_item",
    ("PUT", "/items/{item_id}"): "replace_item",
    ("PATCH", "/items/{item_id}"): "update_item",
    ("DELETE", "/items/{item_id}"): "delete_item",
    ("POST", "/items/bulk"): "create_items",
    ("GET", "/items/export"): "export_items",
    ("GET", "/health"): "health",
    ("GET", "/health/live"): "live",
    ("GET", "/health/ready"): "ready",
}
PHASES = ["examples", "coverage", "fuzzing", "stateful"]


@pytest.fixture(scope="module")
def printed() -> str:
    """What `items openapi` prints."""
    return run("items", "openapi", env={}).stdout


def operations(document: Any) -> dict[tuple[str, str], Any]:
    return {
        (method.upper(), path): operation
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }


def without_keys(document: Any) -> Any:
    """The document of a service that asks for no keys."""
    document = json.loads(json.dumps(document))
    del document["components"]["securitySchemes"]
    for operation in operations(document).values():
        operation.pop("security", None)
    return document


def test_the_committed_document_is_that_of_the_code(printed: str) -> None:
    is_current = COMMITTED.exists() and COMMITTED.read_text() == printed

    assert is_current, f"{COMMITTED.name} is out of date: uv run items openapi > {COMMITTED.name}"


@pytest.mark.parametrize("has_keys", [True, False])
def test_the_service_sends_the_document_that_is_printed(
    settings: Settings, printed: str, has_keys: bool
) -> None:
    expected = json.loads(printed)
    if has_keys:
        settings.api_keys = parse_keys(create_key("tester", SCOPES)[1])
    else:
        expected = without_keys(expected)

    assert TestClient(create_app(settings)).get("/openapi.json").json() == expected


def test_the_document_is_valid_openapi_3_1(printed: str) -> None:
    document = json.loads(printed)

    assert document["openapi"].startswith("3.1.")
    for form in (document, without_keys(document)):
        assert [str(fault) for fault in OpenAPIV31SpecValidator(form).iter_errors()] == []


def test_operation_ids_are_names_to_call_by(printed: str) -> None:
    found = operations(json.loads(printed))

    assert {where: operation["operationId"] for where, operation in found.items()} == OPERATION_IDS


def test_each_link_leads_to_an_operation_that_takes_what_it_gives(printed: str) -> None:
    found = operations(json.loads(printed)).values()
    takes = {
        operation["operationId"]: {parameter["name"] for parameter in operation["parameters"]}
        for operation in found
        if "parameters" in operation
    }
    links = [
        link
        for operation in found
        for response in operation["responses"].values()
        for link in response.get("links", {}).values()
    ]

    assert links
    for link in links:
        assert link["parameters"].keys() <= takes[link["operationId"]]


@pytest.mark.parametrize("has_keys", [True, False])
def test_schemathesis_finds_no_fault(
    empty_database_url: str, tmp_path: Path, has_keys: bool
) -> None:
    env = {"DATABASE_URL": empty_database_url, "WEB_CONCURRENCY": "1"}
    run("items", "migrate", env=env)
    arguments = []
    if has_keys:
        key, env["API_KEYS"] = create_key("tester", SCOPES)
        arguments = ["--header", f"Authorization: Bearer {key}"]
    with running("serve", env=env) as server:
        found = hold_to_its_document(server.url, tmp_path, *arguments)
        errors = [line for line in server.events("request") if line["status"] >= 500]

    assert errors == []
    assert found["operations"]["tested"] == len(OPERATION_IDS)
    assert {name: phase["status"] for name, phase in found["phases"].items()} == dict.fromkeys(
        PHASES, "success"
    )
    assert not any(found["warnings"].values()), found["warnings"]


def hold_to_its_document(url: str, folder: Path, *arguments: str) -> Any:
    """Run Schemathesis, and fail with what it says if it finds a fault. Answers with its report."""
    report = folder / "report.json"
    env = clean_environment() | {"PYTHONPATH": str(ROOT), "SCHEMATHESIS_HOOKS": __name__}
    for name in TRACING:
        env.pop(name, None)
    ran = subprocess.run(
        [
            Path(sys.executable).parent / "schemathesis",
            "run",
            f"{url}/openapi.json",
            f"--phases={','.join(PHASES)}",
            "--checks=all",
            "--max-examples=20",
            "--seed=1",
            "--generation-database=none",
            "--continue-on-failure",
            "--no-color",
            "--output-sanitize=false",  # the key is for this run alone, and shows how to reproduce
            "--report=json",
            f"--report-json-path={report}",
            *arguments,
        ],
        cwd=folder,  # where no configuration is
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )
    assert ran.returncode == 0, f"Schemathesis found faults:\n\n{ran.stdout}"
    return json.loads(report.read_text())


@schemathesis.hook
def before_call(
    context: schemathesis.HookContext, case: schemathesis.Case[Any], kwargs: dict[str, Any]
) -> None:
    """Make valid input valid beyond what the document can say."""
    if not case.meta or not case.meta.generation.mode.is_positive:
        return
    if case.meta.phase.name == "coverage":  # where headers are all alike, of letters and digits
        case.headers.pop("If-Match", None)
        case.headers.pop("Idempotency-Key", None)
    case.query.pop("cursor", None)  # only a list gives one
    page, per_page = int(case.query.get("page", 1)), int(case.query.get("per_page", 20))
    if page * per_page > DEEPEST:
        case.query["page"] = DEEPEST // per_page
    round_prices(case.query)
    round_prices(case.body)
    # Otherwise an item that is deleted is inactive, and is still there by design.
    if case.method == "DELETE" and case.meta.phase.name == "stateful":
        case.query["permanent"] = True


def round_prices(content: Any) -> None:
    """A step of 0.01 is not declared: in binary, 0.07 is no multiple of it."""
    if isinstance(content, dict):
        for name in ("price", "price_min", "price_max"):
            if isinstance(content.get(name), float):
                content[name] = round(content[name], 2) + 0.0  # no -0.0
        for item in content.get("items") or []:
            round_prices(item)


@schemathesis.hook
def filter_failure(
    context: schemathesis.HookContext,
    failure: Failure,
    case: schemathesis.Case[Any],
    response: schemathesis.Response,
) -> bool:
    """Leave out what the document cannot say: what depends on the requests before (a current ETag,
    an unused key), and that space around a name is no part of it, nor of its length."""
    if isinstance(failure, AcceptedNegativeData):
        return not has_space_around(case.body)
    return not isinstance(failure, RejectedPositiveData) or response.json()["type"] not in (
        "urn:items-service:precondition-failed",
        "urn:items-service:idempotency-key-reused",
    )


def has_space_around(content: Any) -> bool:
    """Whether a name, or a description, begins or ends with space."""
    if not isinstance(content, dict):
        return False
    texts = [content.get("name"), content.get("description")]
    return any(isinstance(text, str) and text != text.strip() for text in texts)
