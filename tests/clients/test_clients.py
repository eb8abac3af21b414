"""Clients made from openapi.json compile, and do every operation of the service."""

import json
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from service.domain.api_key import SCOPES, create_key
from tests.support.commands import ROOT, clean_environment
from tests.support.openapi import operations
from tests.support.processes import running

HERE = Path(__file__).parent
# The generator needs httpx and attrs, as the clients that it makes do.
PYTHON = ["uv", "run", "--no-project", "--with=openapi-python-client==0.29.1", "--with=mypy==2.4.*"]
TAGS = {"items", "system"}  # of the operations that the drivers beside this file call

pytestmark = [
    pytest.mark.clients,
    pytest.mark.skipif(shutil.which("npm") is None, reason="npm (Node.js) is missing"),
]


def run(folder: Path, *command: str, env: Mapping[str, str] | None = None) -> None:
    """Run a command in `folder`; it must succeed."""
    ran = subprocess.run(
        command,
        cwd=folder,
        env=clean_environment() | {"UV_EXCLUDE_NEWER": "2026-11-22T00:00:00Z"} | dict(env or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )
    assert ran.returncode == 0, f"{' '.join(command)}:\n\n{ran.stdout}"


@pytest.fixture(scope="module")
def clients(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the drivers and the clients that they use, compiled."""
    folder = tmp_path_factory.mktemp("clients")
    ignore = shutil.ignore_patterns("__*", "test_*")
    shutil.copytree(HERE, folder, ignore=ignore, dirs_exist_ok=True)
    shutil.copy(ROOT / "openapi.json", folder)
    run(folder, "npm", "install", "--prefer-offline")
    run(folder, "npm", "run", "generate")
    run(folder, "npm", "run", "compile")
    generate = ["openapi-python-client", "generate", "--path=openapi.json", "--meta=none"]
    run(folder, *PYTHON, *generate, "--output-path=items_client", "--fail-on-warning")
    # All but the generator's own client.py, which has faults that no document causes.
    made = ["items_client/api", "items_client/models"]
    run(folder, *PYTHON, "mypy", "--strict", "--follow-imports=silent", *made, "python_client.py")
    return folder


@pytest.mark.parametrize(
    "command",
    [
        [*PYTHON, "python", "python_client.py"],
        ["npx", "tsx", "openapi-fetch.ts"],
        ["npx", "tsx", "orval.ts"],
        ["npx", "tsx", "hey-api.ts"],
    ],
    ids=lambda command: command[-1],
)
def test_a_generated_client_does_every_operation(
    clients: Path, own_database_url: str, command: list[str]
) -> None:
    key, entry = create_key("tester", SCOPES)
    with running("serve", env={"DATABASE_URL": own_database_url, "API_KEYS": entry}) as server:
        run(clients, *command, env={"ITEMS_URL": server.url, "ITEMS_KEY": key})

    expected = {
        call
        for call, operation in operations(json.loads((ROOT / "openapi.json").read_text())).items()
        if TAGS.intersection(operation["tags"])
    }
    lines = server.events("request")
    done = {(line["method"], line["route"]) for line in lines if line["status"] < 300}
    assert len(expected) == 11
    assert expected <= done
