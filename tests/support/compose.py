"""The real Compose project for the tests: build, start, change, query and remove it."""

import json
import os
import secrets
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2 as httpx

from tests.support.commands import ROOT, clean_environment
from tests.support.processes import free_port


@dataclass(frozen=True)
class Project:
    """A Compose project for the tests, without an `.env` file."""

    name: str
    url: str
    files: tuple[str, ...]
    environment: dict[str, str]

    def with_files(self, *files: str, scheme: str = "http") -> "Project":
        """Return the project with these overlays added."""
        url = f"{scheme}://{self.url.partition('://')[2]}"
        return replace(self, files=(*self.files, *files), url=url)

    def compose(self, *arguments: str, **environment: str) -> str:
        """Run `docker compose` and return its output.

        Its settings are the project's and those of `environment`, and no others.
        """
        return docker("compose", *arguments, **self.settings(**environment))

    def settings(self, **environment: str) -> dict[str, str]:
        """Return what `docker compose` needs in its environment."""
        address = urlsplit(self.url)
        return {
            "COMPOSE_PROJECT_NAME": self.name,
            "COMPOSE_FILE": ":".join(self.files),
            "COMPOSE_ENV_FILES": os.devnull,
            "HOST": str(address.hostname),
            "PORT": str(address.port),
            **self.environment,
            **environment,
        }

    def replace_replicas(self, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run docker/replace-replicas.sh, which may fail."""
        return run("docker/replace-replicas.sh", **self.settings(**environment))

    def up(self, *options: str, **environment: str) -> None:
        """Start the project or apply `environment` to it; return when it is ready."""
        self.compose("up", "--detach", *options, **environment)
        assert eventually(self.is_ready), self.compose("logs", "--tail=50", **environment)

    def is_ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/health/ready", verify=False).is_success
        except httpx.TransportError:
            return False

    def python(self, code: str) -> str:
        """Run Python `code` in the api's container; return its output."""
        return self.compose("exec", "-T", "api", "python", "-c", code).strip()

    def sql(self, statement: str, user: str = "items") -> str:
        """Run `statement` as the owner of the database, or as `user`; return the rows as text."""
        psql = ("psql", "--dbname=items", "--tuples-only", "--no-align", "--command", statement)
        return self.compose("exec", "-T", "db", *psql, f"--username={user}").strip()

    def containers(self, *services: str) -> list[str]:
        """Return the containers of these services; of all services if none is named."""
        return self.compose("ps", "--all", "--quiet", *services).split()

    def container(self, service: str) -> str:
        (container,) = self.containers(service)
        return container

    def log(self, service: str) -> list[dict[str, Any]]:
        """Return the log lines of the service's container."""
        return [json.loads(line) for line in logged(self.container(service)).splitlines()]


@dataclass(frozen=True)
class Secrets:
    """The contents of the files in the folder of secrets."""

    folder: Path
    migrator_password: str
    service_password: str
    key: str
    key_entry: str

    def all(self) -> tuple[str, ...]:
        """Return every text that must not appear outside the folder."""
        digest = self.key_entry.split(":")[1]
        return (
            *(self.migrator_password, self.service_password),
            *(self.key, digest, "demo-password"),
        )


@contextmanager
def new_project(*files: str, **environment: str) -> Iterator[Project]:
    """Yield a project on a free port; remove it afterwards, with its data and its image."""
    name = f"items-test-{secrets.token_hex(4)}"
    url = f"http://127.0.0.1:{free_port()}"
    project = Project(name, url, ("docker-compose.yml", *files), environment)
    try:
        yield project
    finally:
        project.compose("down", "--volumes", "--remove-orphans")
        for image in docker("image", "ls", "--quiet", f"{project.name}-*").split():
            docker("image", "rm", "--force", image)


def docker(*arguments: str, **environment: str) -> str:
    """Run `docker`, which must succeed; return its output."""
    ran = try_docker(*arguments, **environment)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def try_docker(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `docker`, which may fail."""
    return run("docker", *arguments, **environment)


def run(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command in the project's folder, with `environment` and nothing else of Compose."""
    clean = {k: v for k, v in clean_environment().items() if not k.startswith(("COMPOSE", "POST"))}
    return subprocess.run(
        command, cwd=ROOT, env=clean | environment, capture_output=True, text=True
    )


def logged(container: str) -> str:
    """Return everything that a container has written."""
    ran = try_docker("logs", container)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout + ran.stderr


def inspected(*containers: str) -> list[dict[str, Any]]:
    """Return what `docker inspect` shows about these containers."""
    found: list[dict[str, Any]] = json.loads(docker("inspect", *containers))
    return found


def is_healthy(container: str) -> bool:
    """Return whether Docker's last health check of the container succeeded."""
    return docker("inspect", "--format", "{{.State.Health.Status}}", container) == "healthy\n"


def is_well(container: str) -> bool:
    """Return whether the container passes its health check now."""
    _, *check = inspected(container)[0]["Config"]["Healthcheck"]["Test"]
    return try_docker("exec", container, *check).returncode == 0


def eventually(condition: Callable[[], bool]) -> bool:
    """Return whether `condition` becomes true within two minutes, as containers start slowly."""
    deadline = time.monotonic() + 120
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True
