"""The production stack's containers: what they may not do, and where secrets do not appear."""

import json
from pathlib import Path
from urllib.parse import quote

import httpx2 as httpx
import pytest

from tests.support.compose import Project, Secrets, docker, inspected, logged, try_docker
from tests.support.samples import LAMP

pytestmark = [pytest.mark.docker, pytest.mark.faults]

ROLES = "/sql/roles.sql"
REFUSED = ("permission denied", "must be owner", "no privileges were granted")
FORBIDDEN = (
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
)
PROCESSES = "cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline | tr '\\0' '\\n'"


def psql_as_service(
    stack: Project, secrets: Secrets, *statements: str, database: str = "items"
) -> list[str]:
    """Run each statement as the service's role; return the lines that psql prints.

    Over the network, as connections within the database's container need no password.
    """
    ran = try_docker(
        *("exec", "--env", "PGPASSWORD", stack.container("db"), "psql", "--host=db"),
        *("--username=items_service", "--dbname", database, "--tuples-only", "--no-align"),
        *(f"--command={statement}" for statement in statements),
        PGPASSWORD=secrets.service_password,
    )
    return (ran.stdout + ran.stderr).strip().splitlines()


def test_only_requests_with_a_key_are_served(stack: Project, client: httpx.Client) -> None:
    created = client.post("/items", json=LAMP)
    changed = client.patch(created.headers["location"], json={"price": 1})

    assert (created.status_code, changed.status_code) == (201, 200)
    assert client.get("/items/export").status_code == 200
    assert httpx.get(f"{stack.url}/items").status_code == 401


def test_only_tmp_is_writable(stack: Project) -> None:
    assert all(each["HostConfig"]["ReadonlyRootfs"] for each in inspected(*stack.containers()))
    tried = stack.python("""
for folder in ("/tmp", "/", "/app", "/run/secrets"):
    try:
        open(f"{folder}/new", "w").close()
    except OSError as exc:
        print(exc.strerror)
    else:
        print("written")
""")
    assert tried.splitlines() == ["written"] + ["Read-only file system"] * 3


@pytest.mark.parametrize("service", ["api", "db", "redis", "proxy"])
def test_no_process_has_or_can_gain_a_capability(stack: Project, service: str) -> None:
    status = "cat /proc/[0-9]*/status"
    lines = stack.compose("exec", "-T", service, "sh", "-c", status).splitlines()
    words = [line.split() for line in lines]
    found = {
        name: {line[1] for line in words if line[0] == f"{name}:"}
        for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Uid")
    }

    assert found.pop("NoNewPrivs") == {"1"}
    assert "0" not in found.pop("Uid")
    assert set.union(*found.values()) == {"0000000000000000"}


def test_memory_processes_and_open_files_are_limited(stack: Project) -> None:
    for container in inspected(*stack.containers()):
        limits = container["HostConfig"]
        assert 0 < limits["Memory"] <= 2 * 2**30
        assert 0 < limits["PidsLimit"] <= 1024
        assert [limit["Name"] for limit in limits["Ulimits"]] == ["nofile"]


def test_only_the_proxy_is_published_and_only_the_api_reaches_the_database(stack: Project) -> None:
    containers = {
        each["Config"]["Labels"]["com.docker.compose.service"]: each["NetworkSettings"]
        for each in inspected(*stack.containers())
    }
    published = {name for name, settings in containers.items() if any(settings["Ports"].values())}
    networks = {
        name: {network.removeprefix(f"{stack.name}_") for network in settings["Networks"]}
        for name, settings in containers.items()
    }

    assert published == {"proxy"}
    assert networks["db"] == networks["redis"] == {"default"}
    assert networks["api"] == {"default", "proxied"}
    assert networks["proxy"] == {"front", "proxied"}
    for name, internal in {"default": True, "proxied": True, "front": False}.items():
        (network,) = json.loads(docker("network", "inspect", f"{stack.name}_{name}"))
        assert network["Internal"] is internal


def test_no_secret_appears_in_images_containers_logs_or_processes(
    stack: Project, stack_secrets: Secrets, client: httpx.Client
) -> None:
    client.get("/items")
    image = f"{stack.name}-api"
    seen = [docker("image", "inspect", image), docker("image", "history", "--no-trunc", image)]
    for container in stack.containers():
        seen += [docker("inspect", container), logged(container)]
    for service in ("db", "redis"):
        seen.append(stack.compose("exec", "-T", service, "env"))
    seen.append(stack.compose("exec", "-T", "api", "sh", "-c", PROCESSES))

    assert "\nPGPASSWORD=\n" in seen[-1]  # the command did read the environments
    for secret in stack_secrets.all():
        for form in (secret, quote(secret, safe="")):
            assert not any(form in text for text in seen)


def test_each_start_sets_the_passwords_of_an_existing_volume(stack: Project) -> None:
    stack.sql("ALTER ROLE items PASSWORD 'demo-password'")
    stack.compose("run", "--rm", "migrate")  # first runs `roles`, on which it depends

    ran = try_docker(
        *("exec", "--env=PGPASSWORD=demo-password", stack.container("db"), "psql", "--host=db"),
        *("--username=items", "--command=SELECT 1"),
    )
    assert "password authentication failed" in ran.stderr


def test_no_superuser_can_connect_over_the_network(stack: Project) -> None:
    superusers = "SELECT rolname, rolpassword FROM pg_authid WHERE rolsuper"
    assert stack.sql(superusers, user="postgres") == "postgres|"


@pytest.mark.parametrize("database", ["postgres", "template1"])
def test_the_service_role_connects_to_its_database_alone(
    stack: Project, stack_secrets: Secrets, database: str
) -> None:
    said = psql_as_service(stack, stack_secrets, "SELECT 1", database=database)
    assert "permission denied for database" in said[0]


def test_the_service_role_reads_and_writes_rows_and_nothing_else(
    stack: Project, stack_secrets: Secrets
) -> None:
    lines = psql_as_service(stack, stack_secrets, *FORBIDDEN)
    said = [line for line in lines if line.startswith(("ERROR", "WARNING"))]

    assert len(said) == len(FORBIDDEN)
    assert [line for line in said if not any(words in line for words in REFUSED)] == []
    assert psql_as_service(
        stack,
        stack_secrets,
        "INSERT INTO items (name) VALUES ('Row')",
        "UPDATE items SET price = 1 WHERE name = 'Row'",
        "SELECT price FROM items WHERE name = 'Row'",
        "DELETE FROM items WHERE name = 'Row'",
    ) == ["INSERT 0 1", "UPDATE 1", "1.00", "DELETE 1"]


def test_the_migrator_owns_the_schema(stack: Project) -> None:
    owners = "SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname = 'public'"
    assert stack.sql(owners) == "items"


def test_roles_sql_can_run_again_on_an_existing_database(
    stack: Project, stack_secrets: Secrets
) -> None:
    as_owner = ("run", "--rm", "--no-deps", "roles", "psql", "--username=items", "--dbname=older")
    stack.sql("CREATE DATABASE older OWNER items", user="postgres")
    try:
        stack.compose(*as_owner, "--command=CREATE TABLE early (id serial)")
        stack.compose(*as_owner, f"--file={ROLES}", f"--file={ROLES}")
        stack.compose(*as_owner, "--command=CREATE TABLE late (id serial)")

        inserts = [f"INSERT INTO {table} DEFAULT VALUES" for table in ("early", "late")]
        drops = ["DROP TABLE early", "DROP TABLE late", "CREATE TABLE new (id int)"]
        said = psql_as_service(stack, stack_secrets, *inserts, *drops, database="older")
        assert said[:2] == ["INSERT 0 1"] * 2
        assert len([line for line in said[2:] if any(words in line for words in REFUSED)]) == 3
    finally:
        stack.sql("DROP DATABASE older", user="postgres")


def test_the_service_does_not_start_without_keys(stack: Project, tmp_path: Path) -> None:
    keys = tmp_path / "api_keys"
    keys.touch()
    mounted = ("run", "--rm", f"--volume={keys}:/run/secrets/api_keys:ro", f"{stack.name}-api")
    start = "from service.settings import get_settings; get_settings()"
    assert "API_KEYS: must have at least" in try_docker(*mounted, "python", "-c", start).stderr
