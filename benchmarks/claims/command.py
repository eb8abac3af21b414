"""The command: run the topics one after the other, show and write what comes out."""

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import click
import uvloop

from benchmarks.claims.blocking import blocking
from benchmarks.claims.claim import Result
from benchmarks.claims.collector import collector
from benchmarks.claims.config import (
    extra,
    str_strip_whitespace,
    validate_assignment,
    validate_default,
)
from benchmarks.claims.database import ROWS, filled_database
from benchmarks.claims.endpoints import (
    endpoints_at_1,
    endpoints_at_100,
    endpoints_at_1000,
    endpoints_idle,
)
from benchmarks.claims.engines import engine_per_request, pool, pool_pre_ping
from benchmarks.claims.layers import layers
from benchmarks.claims.measure import Bench, Topic
from benchmarks.claims.objects import conversion, creation, memory
from benchmarks.claims.queries import queries
from benchmarks.claims.report import Report
from benchmarks.claims.responses import responses
from benchmarks.machine import describe
from service.settings import Settings

TOPICS: dict[str, Topic] = {
    "creation": creation,
    "memory": memory,
    "conversion": conversion,
    "validate_assignment": validate_assignment,
    "validate_default": validate_default,
    "str_strip_whitespace": str_strip_whitespace,
    "extra": extra,
    "layers": layers,
    "engine_per_request": engine_per_request,
    "pool": pool,
    "pool_pre_ping": pool_pre_ping,
    "queries": queries,
    "endpoints_at_1": endpoints_at_1,
    "endpoints_at_100": endpoints_at_100,
    "endpoints_at_1000": endpoints_at_1000,
    "endpoints_idle": endpoints_idle,
    "blocking": blocking,
    "responses": responses,
    "collector": collector,
}
# Rounds, seconds of one measurement. Many short ones: the drift within a round is then small.
FULL = (25, 0.15)
QUICK = (5, 0.03)
RESULTS = Path(__file__).parents[1] / "results"


@click.command()
@click.option("--quick", is_flag=True, help="A short run, for a first look")
@click.option(
    "--only", type=click.Choice(list(TOPICS)), multiple=True, help="A topic; repeat for several"
)
@click.option(
    "--database",
    "server_url",
    envvar="DATABASE_URL",
    metavar="URL",
    help="A PostgreSQL to make a database on, and drop it again [DATABASE_URL, or an embedded one]",
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=RESULTS,
    help="Folder for the report [benchmarks/results]",
)
def claims(quick: bool, only: Sequence[str], server_url: str | None, out: Path) -> None:
    """Measure what is often said about this stack, and judge it."""
    out = out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    rounds, seconds = QUICK if quick else FULL
    topics = {name: topic for name, topic in TOPICS.items() if name in only or not only}
    with filled_database(server_url, out) as db:
        machine = describe() | {"PostgreSQL": db.describe()}
        settings = Settings(_env_file=None, database_url=db.url)
        results = uvloop.run(_measure(topics, settings, rounds, seconds))
    methods = {name: " ".join((topic.__doc__ or "").split()) for name, topic in topics.items()}
    report = Report(results, methods, rounds, seconds, machine)
    report.write(out)
    for line in report.terminal_lines():
        click.echo(line)
    click.echo(f"\nThe report is in {os.path.relpath(out)}")


async def _measure(
    topics: Mapping[str, Topic], settings: Settings, rounds: int, seconds: float
) -> dict[str, Result]:
    """Run the topics, with a progress bar over their rounds."""
    steps = len(topics) * (rounds + 1)
    with click.progressbar(length=steps, label="Measuring", file=sys.stderr) as bar:
        bench = Bench(rounds, seconds, settings, range(1, ROWS + 1), tick=lambda: bar.update(1))
        return {name: await topic(bench) for name, topic in topics.items()}
