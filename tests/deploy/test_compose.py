"""The Compose project as `docker compose up --build` starts it, and what its image holds."""

import json
from collections.abc import Iterator
from typing import Any

import httpx2 as httpx
import pytest

from service.settings import Settings
from tests.support.compose import Project, docker, eventually, is_healthy, new_project
from tests.support.samples import LAMP

pytestmark = pytest.mark.docker


@pytest.fixture(scope="module")
def project() -> Iterator[Project]:
    with new_project() as project:
        project.up("--build")
        yield project


def configuration(*overlays: str, **environment: str) -> dict[str, Any]:
    """Return the configuration that Compose reads from its files."""
    files = ("docker-compose.yml", *overlays)
    project = Project("items-test", "http://127.0.0.1:8000", files, {})
    config: dict[str, Any] = json.loads(
        project.compose("config", "--format", "json", **environment)
    )
    return config


@pytest.fixture
def client(project: Project) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=project.url) as client:
        yield client


def test_an_item_is_created_and_read(client: httpx.Client) -> None:
    created = client.post("/items", json=LAMP, headers={"X-Request-ID": "from-the-test"})

    assert created.status_code == 201
    assert client.get(created.headers["location"]).json() == created.json()
    assert client.get("/health").json()["status"] == "ok"


def test_docker_reports_the_api_as_healthy(project: Project) -> None:
    container = project.container("api")
    assert eventually(lambda: is_healthy(container))


def test_two_workers_serve_without_root(project: Project) -> None:
    table = docker("top", project.container("api"), "-eo", "uid,pid,ppid")
    users, ids, parents = zip(*map(str.split, table.splitlines()[1:]), strict=True)
    (init,) = set(parents) - set(ids)
    gunicorn = ids[parents.index(ids[parents.index(init)])]

    assert set(users) == {"10001"}
    assert parents.count(gunicorn) == 2


def test_every_line_of_the_log_is_json(project: Project, client: httpx.Client) -> None:
    client.get("/items", headers={"X-Request-ID": "logged"})

    (line,) = [line for line in project.log("api") if line.get("request_id") == "logged"]
    assert (line["method"], line["route"], line["status"]) == ("GET", "/items", 200)
    assert project.log("migrate")


def test_every_setting_reaches_the_service() -> None:
    fixed = {"DATABASE_URL", "REDIS_URL", "HOST", "PORT"}  # the container's own
    given = {name.upper(): "given" for name in Settings.model_fields if name.upper() not in fixed}
    config = configuration(**given)

    assert given.items() <= config["services"]["api"]["environment"].items()


def test_only_this_machine_reaches_it_by_default() -> None:
    for overlays in ((), ("docker/compose.proxy.yml",)):
        services = configuration(*overlays, HOST="", PORT="")["services"].values()
        ports = [port for service in services for port in service.get("ports", ())]
        assert [(port["host_ip"], port["published"]) for port in ports] == [("127.0.0.1", "8000")]


def test_every_container_is_hardened() -> None:
    for service in configuration("docker/compose.proxy.yml")["services"].values():
        assert service["read_only"]
        assert (service["cap_drop"], service["security_opt"]) == (
            ["ALL"],
            ["no-new-privileges:true"],
        )


def test_the_version_is_the_tag_of_the_image() -> None:
    services = configuration(VERSION="1.4.0")["services"]
    assert services["api"]["image"] == services["migrate"]["image"] == "items-test-api:1.4.0"
    assert services["migrate"]["build"]["args"] == {"VERSION": "1.4.0"}


def test_the_image_holds_the_compiled_service_and_no_tools(project: Project) -> None:
    found = project.python("""
import fastapi, importlib.util, os, pathlib, service, shutil
print(*filter(None, map(shutil.which, ["cc", "gcc", "make", "uv", "git", "curl"])))
print(importlib.util.find_spec("pip"))
print(*sorted(os.listdir("/app")))
for package in (fastapi, service):
    for source in pathlib.Path(package.__file__).parent.rglob("*.py"):
        assert os.path.exists(importlib.util.cache_from_source(source)), source
""")

    content = "alembic.ini docker migrations requirements.lock service"
    assert found.split("\n") == ["None", content]  # the first, empty line is stripped


def test_the_image_has_labels_and_no_secrets(project: Project) -> None:
    image = f"{project.name}-api"
    config = json.loads(docker("image", "inspect", image))[0]["Config"]
    history = docker("image", "history", "--no-trunc", image)

    for label in ("title", "description", "licenses", "source", "version"):
        assert f"org.opencontainers.image.{label}" in config["Labels"]
    for secret in ("password", "DATABASE_URL", "REDIS_URL"):
        assert secret.lower() not in (history + str(config)).lower()
