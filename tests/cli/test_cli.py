"""The `items` command: its help, its errors, `items dev` and `items seed`."""

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
import uvicorn

from service.cli import main
from service.cli.embedded import embedded_postgres
from tests.support.commands import ROOT, items, run
from tests.support.processes import free_port, is_alive, query, running
from tests.support.waiting import wait_until


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Path]:
    """The project in another folder, made of links to this one, with data of its own.

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


@pytest.mark.parametrize("command", [[], ["dev"], ["serve"], ["migrate"], ["revision"], ["seed"]])
def test_help_describes_each_command(command: list[str]) -> None:
    result = items(*command, "--help")

    assert result.exit_code == 0
    assert result.output.startswith(" ".join(["Usage: items", *command]))
    for name in main.commands if not command else ():
        assert name in result.output


def test_dev_runs_postgresql_reloads_changed_code_and_ends_with_ctrl_c(project: Path) -> None:
    data = project / ".postgres"
    with running("dev", env={"PYTHONPATH": str(project)}) as server:
        assert f"Serving on {server.url}, documented on {server.url}/docs" in server.stdout()
        assert httpx.post(f"{server.url}/items", json={"name": "Kept"}).status_code == 201
        wait_until(lambda: "status=201" in server.stderr())
        assert not any(line.startswith("{") for line in server.stderr().splitlines())
        starts = server.stderr().count("] started")
        (project / "service/new.py").touch()
        wait_until(lambda: server.stderr().count("] started") > starts)

        with embedded_postgres(data) as url:
            server.press_ctrl_c()
            wait_until(lambda: not is_alive(-server.process.pid))
            # The server goes on for others that use it.
            assert query(url, "SELECT name FROM items") == [("Kept",)]
    wait_until(lambda: not (data / "postmaster.pid").exists())
    assert "Traceback" not in server.stderr()


def test_dev_migrates_and_serves_the_database_of_database_url(
    empty_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    served: list[dict[str, Any]] = []
    monkeypatch.setattr(uvicorn, "run", lambda app, **options: served.append(options))
    env = {"DATABASE_URL": empty_database_url, "PORT": "1"}
    result = items("dev", "--port", str(port := free_port()), env=env)

    assert f"Serving on http://127.0.0.1:{port}, " in result.stdout
    assert [(options["port"], options["reload"]) for options in served] == [(port, True)]
    assert query(empty_database_url, "SELECT count(*) FROM items") == [(0,)]


def test_dev_refuses_a_port_in_use_before_it_looks_for_a_database() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        env = {"PORT": str(free_port()), "DATABASE_URL": "postgresql://127.0.0.1:1/nothing"}
        result = items("dev", "--port", str(port), env=env)

    assert result.exit_code == 1
    assert result.stderr.startswith(f"Error: 127.0.0.1:{port} ")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("command", ["dev", "serve"])
def test_a_host_that_is_no_address_is_refused(command: str) -> None:
    """Conda sets HOST to its platform."""
    env = {"HOST": "x86_64-conda-linux-gnu", "DATABASE_URL": "postgresql://127.0.0.1:1/nothing"}
    result = items(command, env=env)

    assert result.exit_code == 1
    assert result.stderr.startswith("Error: HOST: x86_64-conda-linux-gnu ")
    assert result.stderr.count("\n") == 1


def test_data_of_another_major_version_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "PG_VERSION").write_text("16\n")

    refused = pytest.raises(SystemExit, match=r"PostgreSQL 16; .* Delete the folder .*DATABASE_URL")
    with refused, embedded_postgres(tmp_path):
        pass


def test_the_embedded_server_ends_even_if_an_earlier_user_was_killed(tmp_path: Path) -> None:
    program = """
import os, pathlib, signal, sys
from service.cli.embedded import embedded_postgres

with embedded_postgres(pathlib.Path(sys.argv[1])):
    os.kill(os.getpid(), signal.SIGKILL)
"""
    killed = run("python", "-c", program, str(tmp_path / "data"), env={}, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert (tmp_path / "data/postmaster.pid").exists()

    with embedded_postgres(tmp_path / "data") as url:
        assert query(url, "SHOW listen_addresses") == [("",)]  # so that two do not collide

    assert not (tmp_path / "data/postmaster.pid").exists()


@pytest.mark.parametrize("command", ["dev", "serve", "migrate"])
def test_wrong_settings_stop_a_command(command: str) -> None:
    result = items(command, env={"POOL_SIZE": "none", "PORT": "70000"})

    assert result.exit_code == 1
    title, *errors = result.output.splitlines()
    assert title == "The configuration is invalid:"
    assert [error.partition(": ")[0] for error in errors] == ["POOL_SIZE", "PORT"]


def test_seed_adds_demo_items(own_database_url: str) -> None:
    result = items("seed", "--rows", "12345", env={"DATABASE_URL": own_database_url})

    assert (result.exit_code, result.stdout) == (0, "")
    assert "Seeding" in result.stderr
    (row,) = query(
        own_database_url,
        """
        SELECT count(*), count(DISTINCT name), count(DISTINCT price) > 100,
            bool_or(price IS NULL), bool_or(NOT is_active), bool_or(description IS NULL),
            (SELECT reltuples FROM pg_class WHERE relname = 'items')
        FROM items
        """,
    )
    # The planner's statistics count them, too.
    assert row == (12345, 12345, True, True, True, True, 12345.0)


def test_seed_requires_a_positive_number_of_rows() -> None:
    result = items("seed", "--rows", "0")

    assert result.exit_code == 2
    assert "--rows" in result.output
