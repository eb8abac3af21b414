"""The real Compose project: built, started, called over HTTP, restarted and taken down."""

import json
import os
import secrets
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest

from service.settings import Settings
from tests.database import ROOT, clean_environment

pytestmark = pytest.mark.docker

GRACE = 20  # seconds, as docker-compose.yml gives the api


@dataclass
class Project:
    """A Compose project of its own, without any `.env`."""

    name: str
    url: str
    files: tuple[str, ...]

    def compose(self, *arguments: str, **environment: str) -> str:
        """Run `docker compose` with no settings but those of `environment`; answer its output."""
        options = ["--project-name", self.name, "--env-file", os.devnull]
        files = [f"--file={name}" for name in self.files]
        address = self.url.removeprefix("http://")
        return docker("compose", *options, *files, *arguments, **{"PORT": address} | environment)

    def up(self, *options: str, **environment: str) -> None:
        """Start, or change, what is not as `environment` wants it; return when it is ready."""
        self.compose("up", "--detach", *options, **environment)
        assert eventually(self.is_ready), self.compose("logs", "--tail=50", **environment)

    def is_ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/health/ready").is_success
        except httpx.TransportError:
            return False

    def python(self, code: str) -> str:
        """Run `code` in the api's container."""
        return self.compose("exec", "-T", "api", "python", "-c", code).strip()

    def sql(self, statement: str) -> str:
        """Run `statement` in the database."""
        psql = ("psql", "--username=items", "--tuples-only", "--no-align", "--command", statement)
        return self.compose("exec", "-T", "db", *psql).strip()

    def container(self, service: str) -> str:
        return self.compose("ps", "--all", "--quiet", service).strip()

    def log(self, service: str) -> list[dict[str, Any]]:
        """What the service's container has logged."""
        command = ["docker", "logs", self.container(service)]
        logs = subprocess.run(command, capture_output=True, check=True)
        return [json.loads(line) for line in (logs.stdout + logs.stderr).splitlines()]


@contextmanager
def new_project(*files: str) -> Iterator[Project]:
    """A project on a free port. It is taken down afterwards, with its data and its image."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}"
    project = Project(f"items-test-{secrets.token_hex(4)}", url, ("docker-compose.yml", *files))
    try:
        yield project
    finally:
        Project(project.name, url, ("docker-compose.yml",)).compose("down", "--volumes")
        docker("image", "rm", f"{project.name}-api")


def docker(*arguments: str, **environment: str) -> str:
    clean = {k: v for k, v in clean_environment().items() if not k.startswith(("COMPOSE", "POST"))}
    ran = subprocess.run(
        ["docker", *arguments], cwd=ROOT, env=clean | environment, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def eventually(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 120
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


@pytest.fixture(scope="session")
def project() -> Iterator[Project]:
    """The project as `docker compose up --build` starts it."""
    with new_project() as project:
        project.up("--build")
        yield project


@pytest.fixture
def changing(project: Project) -> Iterator[Project]:
    """The project, for a test that stops or changes it; restored afterwards."""
    yield project
    project.up()


@pytest.fixture
def client(project: Project) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=project.url) as client:
        yield client


def test_items_are_created_read_and_listed(client: httpx.Client) -> None:
    created = client.post("/items", json={"name": "Lamp", "price": 29.99})
    item = created.json()

    assert created.status_code == 201
    assert client.get(created.headers["location"]).json() == item
    assert client.get("/items", params={"sort": "-id"}).json()["items"][0] == item


@pytest.mark.parametrize("path", ["/health", "/health/live", "/health/ready"])
def test_health_is_ok(client: httpx.Client, path: str) -> None:
    assert client.get(path).json()["status"] == "ok"


def test_docker_finds_the_api_healthy(project: Project) -> None:
    health = ("inspect", "--format", "{{.State.Health.Status}}", project.container("api"))
    assert eventually(lambda: docker(*health) == "healthy\n")


def test_two_workers_serve_and_nobody_is_root(project: Project) -> None:
    table = docker("top", project.container("api"), "-eo", "uid,pid,ppid")
    users, ids, parents = zip(*map(str.split, table.splitlines()[1:]), strict=True)
    (init,) = set(parents) - set(ids)
    gunicorn = ids[parents.index(ids[parents.index(init)])]

    assert set(users) == {"10001"}
    assert parents.count(gunicorn) == 2


def test_every_line_of_the_log_is_json(project: Project, client: httpx.Client) -> None:
    client.get("/items", headers={"X-Request-ID": "from-the-test"})

    (line,) = [x for x in project.log("api") if x.get("request_id") == "from-the-test"]
    assert (line["method"], line["route"], line["status"]) == ("GET", "/items", 200)
    assert project.log("migrate")


def test_every_setting_reaches_the_service(project: Project) -> None:
    fixed = {"DATABASE_URL", "REDIS_URL", "HOST", "PORT"}  # what the service meets in its container
    given = {name.upper(): "given" for name in Settings.model_fields if name.upper() not in fixed}
    config = json.loads(project.compose("config", "--format", "json", **given))
    assert given.items() <= config["services"]["api"]["environment"].items()


def test_nothing_is_limited_by_default(client: httpx.Client) -> None:
    assert {client.post("/items", json={"name": "Many"}).status_code for _ in range(50)} == {201}


def test_all_workers_share_a_rate_limit(changing: Project) -> None:
    changing.up(RATE_LIMIT_WRITE="10/hour")
    # A connection each, so that both workers get some.
    codes = [httpx.post(f"{changing.url}/items", json={"name": "X"}).status_code for _ in range(40)]
    assert codes == [201] * 10 + [429] * 30


def test_a_stop_lets_requests_in_flight_finish(changing: Project, client: httpx.Client) -> None:
    path = client.post("/items", json={"name": "Old"}).headers["location"]
    lock = f"UPDATE items SET name = name WHERE id = {path.rpartition('/')[2]}; SELECT pg_sleep(2)"
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event"

    with ThreadPoolExecutor() as threads:
        threads.submit(changing.sql, lock)
        assert eventually(lambda: changing.sql(f"{waiting} = 'PgSleep'") == "1")
        answer = threads.submit(client.patch, path, json={"name": "New"})
        assert eventually(lambda: changing.sql(f"{waiting}_type = 'Lock'") == "1")
        changing.compose("stop", "api")

    assert answer.result().json()["name"] == "New"


def test_all_stop_cleanly_and_the_data_stays(changing: Project) -> None:
    item = httpx.post(f"{changing.url}/items", json={"name": "Kept"}).json()

    started = time.monotonic()
    changing.compose("stop")
    assert time.monotonic() - started < GRACE
    codes = changing.compose("ps", "--all", "--format", "{{.Service}} {{.ExitCode}}")
    assert set(codes.splitlines()) == {"api 0", "db 0", "migrate 0", "redis 0"}
    assert [line["event"] for line in changing.log("api")].count("stopped") >= 2  # each worker

    changing.compose("down")
    assert changing.compose("ps", "--all", "--quiet") == ""
    changing.up()
    assert httpx.get(f"{changing.url}/items/{item['id']}").json() == item


def test_a_stop_during_the_start_does_not_wait_for_the_kill(changing: Project) -> None:
    changing.compose("stop", "api")
    changing.compose("start", "api")
    started = time.monotonic()
    changing.compose("stop", "api")
    assert time.monotonic() - started < GRACE / 2


def test_the_image_holds_the_service_and_no_tools(project: Project) -> None:
    tools = ["cc", "gcc", "make", "uv", "git", "curl"]
    assert project.python(f"import shutil; print(*filter(None, map(shutil.which, {tools})))") == ""
    assert project.python("import importlib.util; print(importlib.util.find_spec('pip'))") == "None"
    assert set(project.python("import os; print(*os.listdir('/app'))").split()) == {
        *("alembic.ini", "docker", "migrations", "requirements.lock", "service")
    }


def test_the_image_is_compiled(project: Project) -> None:
    project.python("""
import fastapi, importlib.util, os, pathlib, service
for package in (fastapi, service):
    for source in pathlib.Path(package.__file__).parent.rglob("*.py"):
        assert os.path.exists(importlib.util.cache_from_source(source)), source
""")


def test_the_image_has_labels_and_no_secrets(project: Project) -> None:
    image = f"{project.name}-api"
    config = json.loads(docker("image", "inspect", image))[0]["Config"]
    history = docker("image", "history", "--no-trunc", image)

    for label in ("title", "description", "licenses", "source", "version"):
        assert f"org.opencontainers.image.{label}" in config["Labels"]
    for secret in ("password", "DATABASE_URL", "REDIS_URL"):
        assert secret.lower() not in (history + str(config)).lower()


def test_passwords_may_come_from_files(project: Project, tmp_path: Path) -> None:
    (tmp_path / "postgres_password").write_text("p@ss/w:%")
    (tmp_path / "database_url").write_text("postgresql://items:p%40ss%2Fw%3A%25@db/items")
    with new_project("docker/compose.secrets.yml") as other:
        docker("image", "tag", f"{project.name}-api", f"{other.name}-api")
        other.up(SECRETS=str(tmp_path))
        containers = docker("ps", "--quiet", f"--filter=name={other.name}").split()
        assert "p@ss" not in docker("inspect", *containers)
