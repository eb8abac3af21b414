"""The `items` command, as users type it."""

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx2 as httpx
import pytest
from click.testing import CliRunner

from service.cli import main
from service.embedded import embedded_postgres
from tests.support.commands import ROOT, run
from tests.support.processes import Server, free_port, is_alive, query, running, script
from tests.support.waiting import wait_until


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Path]:
    """The project in another folder, and so with data of its own: made of links to this one.

    With it as PYTHONPATH, the commands of this environment run that project.
    """
    (tmp_path / "service").mkdir()
    for path in (*ROOT.glob("service/[a-z]*"), ROOT / "service/__init__.py"):
        (tmp_path / "service" / path.name).symlink_to(path)
    for name in ("alembic.ini", "docker", "migrations"):
        (tmp_path / name).symlink_to(ROOT / name)
    yield tmp_path
    if (pid_file := tmp_path / ".postgres/postmaster.pid").exists():  # the test has failed
        os.kill(int(pid_file.read_text().split()[0]), signal.SIGINT)
        wait_until(lambda: not pid_file.exists())


def assert_all_ends(server: Server, project: Path) -> None:
    """No process of the server is left, and no PostgreSQL."""
    wait_until(lambda: not is_alive(-server.process.pid))
    wait_until(lambda: not (project / ".postgres/postmaster.pid").exists())


@pytest.mark.parametrize("command", [[], ["dev"], ["serve"], ["migrate"], ["revision"], ["seed"]])
def test_help_says_what_a_command_does(command: list[str]) -> None:
    result = CliRunner().invoke(main, [*command, "--help"], prog_name="items")

    assert result.exit_code == 0
    assert result.output.startswith(" ".join(["Usage: items", *command]))
    for name in main.commands if not command else ():
        assert name in result.output


def test_dev_needs_nothing_keeps_its_data_and_ends_in_full(project: Path) -> None:
    env = {"PYTHONPATH": str(project)}
    with running("dev", env=env) as server:
        assert f"Serving on {server.url}, documented on {server.url}/docs" in server.stdout()
        assert httpx.post(f"{server.url}/items", json={"name": "Kept"}).status_code == 201
        wait_until(lambda: "status=201" in server.stderr())
        assert not any(line.startswith("{") for line in server.stderr().splitlines())

        # It reloads when the code changes.
        starts = server.stderr().count("] started")
        (project / "service/new.py").touch()
        wait_until(lambda: server.stderr().count("] started") > starts)

        server.press_ctrl_c()
        assert_all_ends(server, project)
        assert "Traceback" not in server.stderr()

    with running("dev", env=env) as server:
        items = httpx.get(f"{server.url}/items").json()["items"]
        assert [item["name"] for item in items] == ["Kept"]

        # Another command meanwhile works on the same data.
        run("items", "seed", "--rows", "30", env=env)
        assert httpx.get(f"{server.url}/items").json()["total"] == 31

        server.end(signal.SIGTERM)
        assert_all_ends(server, project)


def test_dev_uses_the_database_url_if_set(project: Path, empty_database_url: str) -> None:
    env = {"PYTHONPATH": str(project), "DATABASE_URL": empty_database_url}
    with running("dev", env=env) as server:
        assert httpx.post(f"{server.url}/items", json={"name": "There"}).status_code == 201

    assert query(empty_database_url, "SELECT name FROM items") == [("There",)]
    assert not (project / ".postgres").exists()
    assert not any(line.startswith("{") for line in server.stderr().splitlines())


def test_dev_refuses_a_taken_port_before_it_starts_anything(project: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        env = {"PYTHONPATH": str(project), "PORT": str(free_port())}
        ran = run("items", "dev", "--port", port, env=env, check=False)

    assert ran.returncode == 1
    assert ran.stderr.startswith("Error: ")
    assert f"127.0.0.1:{port} " in ran.stderr
    assert ran.stderr.count("\n") == 1
    assert not (project / ".postgres").exists()


def test_two_projects_do_not_collide(tmp_path: Path) -> None:
    with embedded_postgres(tmp_path / "one") as one, embedded_postgres(tmp_path / "two") as two:
        script(one, "CREATE TABLE mine (id int)")
        script(two, "CREATE TABLE mine (id int)")

        assert query(one, "SHOW data_directory") != query(two, "SHOW data_directory")
        assert query(one, "SHOW listen_addresses") == [("",)]


def test_the_embedded_server_ends_even_if_a_process_before_was_killed(project: Path) -> None:
    data = project / ".postgres"
    program = """
import os, pathlib, signal, sys
from service.embedded import embedded_postgres

with embedded_postgres(pathlib.Path(sys.argv[1])):
    os.kill(os.getpid(), signal.SIGKILL)
"""
    killed = run("python", "-c", program, str(data), env={}, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert (data / "postmaster.pid").exists()

    with embedded_postgres(data):
        pass

    assert not (data / "postmaster.pid").exists()


def test_serve_wants_a_database_url() -> None:
    ran = run("items", "serve", env={}, check=False)

    assert (ran.returncode, ran.stderr) == (1, "Error: DATABASE_URL is not set\n")


@pytest.mark.parametrize(
    "command",
    [
        ("items", "dev"),
        ("items", "serve"),
        ("alembic", "upgrade", "head"),
    ],
)
def test_wrong_settings_stop_the_start(command: tuple[str, ...]) -> None:
    ran = run(*command, env={"POOL_SIZE": "none", "PORT": "70000"}, check=False)

    assert ran.returncode == 1
    assert ran.stdout == ""
    title, *faults = ran.stderr.splitlines()
    assert title == "The configuration is wrong:"
    assert [fault.partition(": ")[0] for fault in faults] == ["POOL_SIZE", "PORT"]


def test_seed_adds_demo_items(empty_database_url: str) -> None:
    env = {"DATABASE_URL": empty_database_url}
    run("items", "migrate", env=env)
    ran = run("items", "seed", "--rows", "12345", env=env)

    assert ran.stdout == ""
    assert "Seeding" in ran.stderr
    (row,) = query(
        empty_database_url,
        """
        SELECT count(*), count(DISTINCT name), count(DISTINCT price) > 100,
            bool_or(price IS NULL), bool_or(NOT is_active), bool_or(description IS NULL),
            (SELECT reltuples FROM pg_class WHERE relname = 'items')
        FROM items
        """,
    )
    # The planner knows of them, too.
    assert row == (12345, 12345, True, True, True, True, 12345.0)


@pytest.mark.parametrize("rows", ["0", "-1", "many"])
def test_seed_wants_a_number_of_rows(rows: str) -> None:
    result = CliRunner().invoke(main, ["seed", "--rows", rows])

    assert result.exit_code == 2
    assert "--rows" in result.output
