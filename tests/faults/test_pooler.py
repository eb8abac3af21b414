"""A connection pooler in transaction mode, which would run one client's statement for another."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import make_url

from tests.support.commands import run
from tests.support.processes import free_port, query
from tests.support.waiting import TIMEOUT, wait_until

PGBOUNCER = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
pytestmark = [
    pytest.mark.faults,
    pytest.mark.skipif(PGBOUNCER is None, reason="PgBouncer is not installed"),
]
# What the service sets on each connection; PgBouncer refuses to connect otherwise.
OUR_SETTINGS = "default_transaction_isolation,statement_timeout,lock_timeout,jit,timezone"
IGNORED = f"{OUR_SETTINGS},idle_in_transaction_session_timeout,extra_float_digits"
ADVISORY_LOCKS = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"


@pytest.fixture(params=["", IGNORED], ids=["strict", "lenient"])
def pooled_url(
    own_database_url: str, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[str]:
    """The database's address by way of PgBouncer."""
    url, port = make_url(own_database_url), free_port()
    password = f"password={url.password}" if url.password else ""
    ini = tmp_path / "pgbouncer.ini"
    ini.write_text(f"""
[databases]
* = host={url.host} port={url.port} user={url.username} {password}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
ignore_startup_parameters = {request.param}
""")
    ini.chmod(0o644)
    log = tmp_path / "log"
    assert PGBOUNCER
    # It refuses to run as root.
    user = "nobody" if os.geteuid() == 0 else None
    with ini.open() as stdin, log.open("wb") as output:
        process = subprocess.Popen(
            [PGBOUNCER, "/dev/stdin"], stdin=stdin, stderr=output, user=user, cwd="/"
        )
    try:
        wait_until(lambda: b"process up" in log.read_bytes())
        yield url.set(host="127.0.0.1", port=port).render_as_string(hide_password=False)
    finally:
        process.kill()
        process.wait(TIMEOUT)


@pytest.mark.parametrize(
    "command", [("items", "migrate"), ("items", "serve"), ("alembic", "upgrade", "head")], ids=str
)
def test_a_real_pooler_is_refused_and_keeps_no_lock(
    own_database_url: str, pooled_url: str, command: tuple[str, ...]
) -> None:
    ran = run(*command, env={"DATABASE_URL": pooled_url}, check=False)

    assert ran.returncode != 0
    (line,) = (ran.stdout + ran.stderr).splitlines()
    assert "DATABASE_URL leads to a connection pooler" in line
    assert query(own_database_url, ADVISORY_LOCKS) == [(0,)]
