"""The real Compose project: built, started, called over HTTP, restarted and taken down."""

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx2 as httpx
import pytest

from service.settings import Settings
from tests.support.compose import Project, docker, eventually, is_healthy, new_project

pytestmark = pytest.mark.docker

GRACE = 20  # seconds that all may take to stop
AT_ONCE = 1.0  # seconds within which a request is told that the database is away
SOON = 2.0  # seconds after its return within which all is well again


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
    container = project.container("api")
    assert eventually(lambda: is_healthy(container))


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


def test_a_database_that_is_gone_is_told_at_once(changing: Project) -> None:
    """Its host is, too, and its name: to look that up, or to connect, may take seconds to fail."""

    def ask(number: int) -> float:
        method, path = (("GET", "/items/1"), ("POST", "/items"), ("GET", "/health/ready"))[
            number % 3
        ]
        time.sleep(number % 8 / 100)
        begun = time.monotonic()
        content = {"name": "Lamp"} if method == "POST" else None
        answer = asking.request(method, path, json=content)
        assert (answer.status_code, int(answer.headers["retry-after"]) > 0) == (503, True)
        return time.monotonic() - begun

    changing.compose("stop", "db")
    # One client for all: to make one takes longer than the answer, on a slow machine much longer.
    with httpx.Client(base_url=changing.url, timeout=30) as asking, ThreadPoolExecutor(8) as pool:
        seconds = sorted(pool.map(ask, range(1000)))
    print(
        f"{len(seconds)} were told so, in {seconds[500]:.3f} s, the slowest in {seconds[-1]:.3f} s"
    )
    assert seconds[-1] < AT_ONCE

    changing.compose("start", "db")
    begun = time.monotonic()
    while not changing.is_ready():
        assert time.monotonic() - begun < SOON
        time.sleep(0.01)
    print(f"ready {time.monotonic() - begun:.3f} s after its return")
    assert [line for line in changing.log("api") if line["level"] == "error"] == []


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
