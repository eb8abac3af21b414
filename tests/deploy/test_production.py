"""The production overlay: what its containers may not do, and where its secrets are not."""

import json
import secrets
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import httpx2 as httpx
import pytest

from service.keys import create_key
from tests.support.compose import Project, docker, inspected, logged, new_project, try_docker

pytestmark = [pytest.mark.docker, pytest.mark.faults]

SERVICES = ("api", "migrate", "db", "redis")
ROLES = "/docker-entrypoint-initdb.d/roles.sql"
# With all that would have to be quoted somewhere.
MIGRATOR_PASSWORD = f"migrator/@:%'\"$ {secrets.token_hex(8)}"
SERVICE_PASSWORD = f"service/@:%'\"$ {secrets.token_hex(8)}"
KEY, KEY_ENTRY = create_key("tests", ("items:read", "items:write"))
SECRETS = (MIGRATOR_PASSWORD, SERVICE_PASSWORD, KEY_ENTRY.split(":")[1], "demo-password")


def address(role: str, password: str) -> str:
    return f"postgresql://{role}:{quote(password, safe='')}@db/items"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that SECRETS names."""
    folder = tmp_path_factory.mktemp("secrets")
    files = {
        "migrator_password": MIGRATOR_PASSWORD,
        "service_password": SERVICE_PASSWORD,
        "migrator_database_url": address("items", MIGRATOR_PASSWORD),
        "service_database_url": address("items_service", SERVICE_PASSWORD),
        "api_keys": KEY_ENTRY,
    }
    for name, content in files.items():
        (folder / name).write_text(f"{content}\n")
    return folder


@pytest.fixture(scope="module")
def project(folder: Path) -> Iterator[Project]:
    """The project as production starts it."""
    with new_project("docker/compose.production.yml", SECRETS=str(folder)) as project:
        project.up("--build")
        yield project


@pytest.fixture
def client(project: Project) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=project.url, headers={"Authorization": f"Bearer {KEY}"}) as client:
        yield client


def psql(project: Project, statement: str, database: str = "items") -> str:
    """Run `statement` as the service's role; answer what psql says.

    Under the name that the service knows: the database believes its own container anything.
    """
    ran = try_docker(
        *("exec", "--env", "PGPASSWORD", project.container("db"), "psql", "--host=db"),
        *("--username=items_service", "--dbname", database, "--tuples-only", "--no-align"),
        *("--command", statement),
        PGPASSWORD=SERVICE_PASSWORD,
    )
    return (ran.stdout + ran.stderr).strip()


def test_it_serves_those_with_a_key(client: httpx.Client) -> None:
    created = client.post("/items", json={"name": "Lamp"})
    changed = client.patch(created.headers["location"], json={"price": 1})

    assert (created.status_code, changed.status_code) == (201, 200)
    assert client.get("/items/export").status_code == 200
    assert httpx.get(f"{client.base_url}/items").status_code == 401


def test_only_tmp_can_be_written(project: Project) -> None:
    assert all(each["HostConfig"]["ReadonlyRootfs"] for each in inspected(*project.containers()))
    tried = project.python("""
for folder in ("/tmp", "/", "/app", "/run/secrets"):
    try:
        open(f"{folder}/new", "w").close()
    except OSError as exc:
        print(exc)
    else:
        print("written")
""")
    assert tried.splitlines() == [
        "written",
        "[Errno 30] Read-only file system: '//new'",
        "[Errno 30] Read-only file system: '/app/new'",
        "[Errno 30] Read-only file system: '/run/secrets/new'",
    ]


@pytest.mark.parametrize("service", ["api", "db", "redis"])
def test_no_process_has_a_capability_or_can_get_one(project: Project, service: str) -> None:
    status = "cat /proc/[0-9]*/status"
    lines = project.compose("exec", "-T", service, "sh", "-c", status).splitlines()
    words = [line.split() for line in lines]
    found = {
        name: {line[1] for line in words if line[0] == f"{name}:"}
        for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Uid")
    }

    assert found.pop("NoNewPrivs") == {"1"}
    assert "0" not in found.pop("Uid")
    assert set.union(*found.values()) == {"0000000000000000"}


def test_memory_processes_and_open_files_are_limited(project: Project) -> None:
    for container in inspected(*project.containers()):
        limits = container["HostConfig"]
        assert 0 < limits["Memory"] <= 2 * 2**30
        assert 0 < limits["PidsLimit"] <= 1024
        assert [limit["Name"] for limit in limits["Ulimits"]] == ["nofile"]
    assert project.python("import resource; print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])")


def test_the_database_is_within_reach_of_the_service_alone(project: Project) -> None:
    (database,) = inspected(project.container("db"))
    networks = database["NetworkSettings"]["Networks"]
    ((network, where),) = networks.items()
    assert json.loads(docker("network", "inspect", network))[0]["Internal"]
    assert not any(database["NetworkSettings"]["Ports"].values())

    ready = ("postgres:17", "pg_isready", "--timeout=3", "--host", where["IPAddress"])
    outside = ("run", "--rm", "--network", f"{project.name}_front")
    assert "no response" in try_docker(*outside, *ready).stdout
    inside = ("run", "--rm", "--network", network)
    assert "accepting connections" in try_docker(*inside, *ready).stdout


def test_only_the_api_is_published(project: Project) -> None:
    published = {
        each["Config"]["Labels"]["com.docker.compose.service"]
        for each in inspected(*project.containers())
        if any((each["NetworkSettings"]["Ports"] or {}).values())
    }
    assert published == {"api"}


def test_no_secret_is_to_be_seen(project: Project, client: httpx.Client) -> None:
    client.get("/items")
    image = f"{project.name}-api"
    seen = [docker("image", "inspect", image), docker("image", "history", "--no-trunc", image)]
    for container in project.containers():
        seen += [docker("inspect", container), logged(container)]
    for service in ("db", "redis"):
        seen.append(project.compose("exec", "-T", service, "env"))
    processes = "cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline | tr '\\0' '\\n'"
    seen.append(project.compose("exec", "-T", "api", "sh", "-c", processes))

    assert "\nPGPASSWORD=\n" in seen[-1]  # it did look
    for secret in (KEY, *SECRETS, *(quote(each, safe="") for each in SECRETS)):
        assert not any(secret in text for text in seen)


def test_the_volume_of_a_first_try_takes_the_new_passwords(project: Project) -> None:
    project.sql("ALTER ROLE items PASSWORD 'demo-password'")
    project.compose("exec", "-T", "db", "psql", "--username=items", f"--file={ROLES}")

    ran = try_docker(
        *("exec", "--env=PGPASSWORD=demo-password", project.container("db"), "psql", "--host=db"),
        *("--username=items", "--command=SELECT 1"),
    )
    assert "password authentication failed" in ran.stderr
    project.compose("run", "--rm", "--no-deps", "migrate")


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE new (id int)",
        "CREATE TEMPORARY TABLE new (id int)",
        "CREATE SCHEMA new",
        "CREATE FUNCTION new() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "CREATE INDEX ON items (name)",
        "CREATE ROLE new",
        "CREATE EXTENSION hstore",
        "ALTER TABLE items ADD COLUMN new int",
        "ALTER TABLE items DISABLE TRIGGER ALL",
        "DROP TABLE items",
        "DROP INDEX ix_items_name_id",
        "TRUNCATE items",
        "TRUNCATE idempotency_keys",
        "SELECT setval('items_id_seq', 1)",
        "GRANT SELECT ON items TO PUBLIC",
        "SET ROLE items",
        "COPY items TO PROGRAM 'cat'",
        "SELECT pg_read_file('/run/secrets/migrator_password')",
    ],
)
def test_the_services_role_may_not(project: Project, statement: str) -> None:
    said = psql(project, statement)
    refused = ("permission denied", "must be owner", "no privileges were granted")
    assert any(words in said for words in refused), said


def test_the_services_role_may_read_and_write_rows(project: Project) -> None:
    assert psql(project, "INSERT INTO items (name) VALUES ('Row')") == "INSERT 0 1"
    assert psql(project, "UPDATE items SET price = 1 WHERE name = 'Row'") == "UPDATE 1"
    assert psql(project, "SELECT price FROM items WHERE name = 'Row'") == "1.00"
    assert psql(project, "DELETE FROM items WHERE name = 'Row'") == "DELETE 1"


def test_the_migrator_owns_the_schema(project: Project) -> None:
    owners = "SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname = 'public'"
    assert project.sql(owners) == "items"
    assert project.log("migrate")


def test_an_administrator_gives_the_roles_to_a_database_that_exists(project: Project) -> None:
    as_migrator = ("exec", "-T", "db", "psql", "--username=items", "--dbname=older")
    project.sql("CREATE DATABASE older")
    try:
        project.compose(*as_migrator, "--command=CREATE TABLE early (id serial)")
        project.compose(*as_migrator, f"--file={ROLES}")
        project.compose(*as_migrator, f"--file={ROLES}")
        project.compose(*as_migrator, "--command=CREATE TABLE late (id serial)")

        for table in ("early", "late"):
            insert = f"INSERT INTO {table} DEFAULT VALUES"
            assert psql(project, insert, "older") == "INSERT 0 1"
            assert "must be owner" in psql(project, f"DROP TABLE {table}", "older")
        assert "permission denied" in psql(project, "CREATE TABLE new (id int)", "older")
    finally:
        project.sql("DROP DATABASE older")


def test_without_keys_nothing_starts(project: Project, tmp_path: Path) -> None:
    keys = tmp_path / "api_keys"
    keys.touch()
    mounted = ("run", "--rm", f"--volume={keys}:/run/secrets/api_keys:ro", f"{project.name}-api")
    start = "from service.settings import get_settings; get_settings()"
    assert "API_KEYS: must have at least" in try_docker(*mounted, "python", "-c", start).stderr


def test_the_proxy_is_all_that_is_within_reach(project: Project, folder: Path) -> None:
    network = f"10.90.{secrets.randbelow(254) + 1}"
    files = ("docker/compose.proxy.yml", "docker/compose.production.yml")
    with new_project(*files, SECRETS=str(folder), PROXY_NETWORK=network) as other:
        docker("image", "tag", f"{project.name}-api", f"{other.name}-api")
        other.up()
        headers = {"Authorization": f"Bearer {KEY}"}
        created = httpx.post(f"{other.url}/items", json={"name": "Lamp"}, headers=headers)
        assert created.status_code == 201

        networks = {"default": True, "front": True, "outer": False}
        for name, internal in networks.items():
            (network_,) = json.loads(docker("network", "inspect", f"{other.name}_{name}"))
            assert network_["Internal"] is internal
        (proxy,) = inspected(other.container("proxy"))
        assert f"{other.name}_default" not in proxy["NetworkSettings"]["Networks"]
        for replica in inspected(*other.containers("api")):
            assert set(replica["NetworkSettings"]["Networks"]) == {
                f"{other.name}_default",
                f"{other.name}_front",
            }
