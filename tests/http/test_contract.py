"""The OpenAPI document is committed, valid and true: Schemathesis checks the running service."""

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from openapi_spec_validator import OpenAPIV31SpecValidator
from pydantic import SecretStr

from service.domain.api_key import SCOPES, create_key, parse_keys
from service.main import create_app
from service.settings import Settings
from tests.support.apps import address, listening, tolerate_locks
from tests.support.commands import ROOT, TRACING, clean_environment
from tests.support.openapi import operations, printed_document
from tests.support.waiting import TIMEOUT

COMMITTED = ROOT / "openapi.json"
PHASES = ["examples", "coverage", "fuzzing", "stateful"]


@pytest.fixture
def document() -> Any:
    """The document of a service that uses API keys."""
    return json.loads(printed_document())


def without_keys(document: Any) -> Any:
    """Return the document of a service without API keys."""
    document = json.loads(json.dumps(document))
    for operation in operations(document).values():
        if operation["security"]:
            operation["security"].append({})
    return document


def test_the_committed_document_is_current() -> None:
    is_current = COMMITTED.read_text() == printed_document()

    assert is_current, f"{COMMITTED.name} is out of date: uv run items openapi > {COMMITTED.name}"


@pytest.mark.parametrize("has_keys", [True, False])
def test_the_service_sends_the_printed_document(
    settings: Settings, document: Any, has_keys: bool
) -> None:
    if has_keys:
        settings.api_keys = parse_keys(create_key("tester", SCOPES)[1])
    expected = document if has_keys else without_keys(document)

    assert TestClient(create_app(settings)).get("/openapi.json").json() == expected


def test_the_document_is_valid_openapi_3_1(document: Any) -> None:
    assert document["openapi"].startswith("3.1.")
    for form in (document, without_keys(document)):
        assert [str(fault) for fault in OpenAPIV31SpecValidator(form).iter_errors()] == []


@pytest.mark.parametrize(
    ("has_keys", "max_examples"),
    [
        (True, 2),
        pytest.param(True, 50, marks=pytest.mark.soak),
        pytest.param(False, 50, marks=pytest.mark.soak),
    ],
)
async def test_schemathesis_finds_no_fault(
    settings: Settings,
    own_database_url: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    document: Any,
    has_keys: bool,
    max_examples: int,
) -> None:
    tolerate_locks(settings, monkeypatch)
    settings.database_url = SecretStr(own_database_url)
    settings.request_timeout = TIMEOUT
    options = [f"--max-examples={max_examples}"]
    if has_keys:
        key, entry = create_key("tester", SCOPES)
        settings.api_keys = parse_keys(entry)
        options.append(f"--header=Authorization: Bearer {key}")
    app = create_app(settings)
    async with app.router.lifespan_context(app), listening(app) as server:
        host, port = address(server)
        report = await asyncio.to_thread(
            run_schemathesis, f"http://{host}:{port}/openapi.json", tmp_path, *options
        )

    assert report["operations"]["tested"] == len(operations(document))
    assert {name: phase["status"] for name, phase in report["phases"].items()} == dict.fromkeys(
        PHASES, "success"
    )
    assert not any(report["warnings"].values()), report["warnings"]


def run_schemathesis(url: str, folder: Path, *options: str) -> Any:
    """Run Schemathesis as a process in `folder`, fail if it finds a fault, return its report."""
    report = folder / "report.json"
    env = clean_environment() | {
        "PYTHONPATH": str(ROOT),
        "SCHEMATHESIS_HOOKS": "tests.support.schemathesis_hooks",
    }
    for name in TRACING:
        env.pop(name, None)
    ran = subprocess.run(
        [
            Path(sys.executable).parent / "schemathesis",
            "run",
            url,
            f"--phases={','.join(PHASES)}",
            "--checks=all",
            "--workers=1",
            f"--request-timeout={TIMEOUT}",
            "--seed=1",
            "--generation-database=none",
            "--continue-on-failure",
            "--no-color",
            "--output-sanitize=false",  # the key is for this run only; it helps to reproduce faults
            "--report=json",
            f"--report-json-path={report}",
            *options,
        ],
        cwd=folder,  # contains no configuration file
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
    )
    assert ran.returncode == 0, f"Schemathesis found faults:\n\n{ran.stdout}"
    return json.loads(report.read_text())
