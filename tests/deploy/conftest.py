"""The production stack: the Compose project with the production and the proxy overlay."""

import secrets
from collections.abc import Iterator
from urllib.parse import quote

import httpx2 as httpx
import pytest

from service.domain.api_key import create_key
from tests.support.compose import Project, Secrets, eventually, is_well, new_project
from tests.support.waiting import TIMEOUT


@pytest.fixture(scope="session")
def stack_secrets(tmp_path_factory: pytest.TempPathFactory) -> Secrets:
    """The folder that SECRETS names, with passwords that need quoting everywhere."""
    migrator, service = (f"{role}/@:%'\"$ {secrets.token_hex(8)}" for role in ("migr", "serv"))
    key, entry = create_key("tests", ("items:read", "items:write"))
    made = Secrets(tmp_path_factory.mktemp("secrets"), migrator, service, key, entry)
    files = {
        "migrator_password": migrator,
        "service_password": service,
        "migrator_database_url": f"postgresql://items:{quote(migrator, safe='')}@db/items",
        "service_database_url": f"postgresql://items_service:{quote(service, safe='')}@db/items",
        "api_keys": entry,
    }
    for name, content in files.items():
        (made.folder / name).write_text(f"{content}\n")
    return made


@pytest.fixture(scope="session")
def stack(stack_secrets: Secrets) -> Iterator[Project]:
    """The stack in production: a first try, with its volume, to which each overlay is added."""
    with new_project(SECRETS=str(stack_secrets.folder)) as project:
        project.up("--build")
        for overlay in ("docker/compose.production.yml", "docker/compose.proxy.yml"):
            project = project.with_files(overlay)
            project.up("--build")
        yield project


@pytest.fixture
def changed_stack(stack: Project) -> Iterator[Project]:
    """The stack for a test that stops or changes it; restored afterwards."""
    yield stack
    stack.up("--remove-orphans")
    assert eventually(lambda: all(map(is_well, stack.containers("api"))))


@pytest.fixture
def client(stack: Project, stack_secrets: Secrets) -> Iterator[httpx.Client]:
    """A client of the stack that sends an API key."""
    headers = {"Authorization": f"Bearer {stack_secrets.key}"}
    with httpx.Client(base_url=stack.url, headers=headers, timeout=TIMEOUT) as client:
        yield client
