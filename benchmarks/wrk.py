"""wrk, the load generator."""

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import click

from benchmarks.processes import run_for

SCRIPT = Path(__file__).with_name("drive.lua")
MAX_THREADS = 2
ANSWER_TIMEOUT = 30  # seconds; wrk counts an answer that takes longer as an error

MISSING = """\
wrk is not on PATH; it makes the load. To install it:
  Debian, Ubuntu   apt-get install wrk
  Fedora           dnf install wrk
  macOS            brew install wrk"""


@dataclass(slots=True)
class Outcome:
    """What one run of a load generator saw. Latencies are in milliseconds."""

    requests: int  # that succeeded
    seconds: float
    errors: int
    p50: float | None = None
    p95: float | None = None
    p99: float | None = None


def require_wrk() -> None:
    """Refuse to begin without wrk.

    Raises:
        ClickException: it is not installed; the message says how to.
    """
    if shutil.which("wrk") is None:
        raise click.ClickException(MISSING)


def wrk_version() -> str:
    """Return the version of wrk, or `unknown`."""
    banner = subprocess.run(["wrk", "-v"], capture_output=True, text=True).stdout
    version = re.match(r"wrk (\S+)", banner)
    return version[1] if version else "unknown"


def drive(
    port: int,
    scenario: str,
    connections: int,
    seconds: int,
    rows: int,
    midway: Callable[[], None] = lambda: None,
) -> Outcome:
    """Load the application on `port` of this machine for so many seconds."""
    command = [
        *("wrk", "--script", str(SCRIPT)),
        *("--threads", str(min(connections, MAX_THREADS))),
        *("--connections", str(connections)),
        *("--duration", f"{seconds}s"),
        *("--timeout", f"{ANSWER_TIMEOUT}s"),
        *(f"http://127.0.0.1:{port}", "--", scenario, str(rows)),
    ]
    return parse(run_for(seconds, command, midway))


def parse(output: str) -> Outcome:
    """Read the line that the script writes last."""
    result = json.loads(output.splitlines()[-1])
    return Outcome(
        requests=result["requests"] - result["refused"],
        seconds=result["seconds"],
        errors=result["refused"] + result["broken"],
        p50=result["p50"],
        p95=result["p95"],
        p99=result["p99"],
    )
