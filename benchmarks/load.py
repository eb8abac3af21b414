"""The load comparison: the service, the usual design and others, under wrk, turn by turn."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click

from benchmarks.database import Database, database
from benchmarks.machine import describe
from benchmarks.measure import measure_pgbench, measure_server
from benchmarks.pgbench import find_pgbench
from benchmarks.plan import APPS, Plan, Timing, Turn
from benchmarks.processes import raise_file_limit
from benchmarks.report import write_report
from benchmarks.results import SCENARIOS, Results
from benchmarks.servers import APPLICATIONS, ROOT, run_tool, serve
from benchmarks.wrk import require_wrk, wrk_version

RESULTS = Path("benchmarks/results")
AT_LEAST_1 = click.IntRange(min=1)


class CommaSeparated(click.ParamType[tuple[Any, ...]]):
    """Several values in one option, with commas between them."""

    name = "list"

    def __init__(self, member: click.ParamType[Any]) -> None:
        self.member = member

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[Any, ...]:
        """Each of them by the rules for one."""
        return tuple(self.member.convert(part.strip(), param, ctx) for part in value.split(","))


database_option = click.option(
    "--database",
    "database_url",
    envvar="DATABASE_URL",
    metavar="URL",
    help="A PostgreSQL to make a database on, and drop it again [DATABASE_URL, or an embedded one]",
)
rows_option = click.option(
    "--rows", type=AT_LEAST_1, default=100_000, show_default=True, help="Items in the table"
)
out_option = click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=RESULTS,
    show_default=True,
    help="Folder for the report",
)


@click.command()
@database_option
@rows_option
@click.option(
    "--connections",
    type=CommaSeparated(AT_LEAST_1),
    default="1,64,1000",
    show_default=True,
    help="Clients at once",
)
@click.option(
    "--workers", type=AT_LEAST_1, default=2, show_default=True, help="Of each application"
)
@click.option(
    "--rounds",
    type=AT_LEAST_1,
    default=5,
    show_default=True,
    help="How often each application bears each load",
)
@click.option("--seconds", type=AT_LEAST_1, default=10, show_default=True, help="Of each load")
@click.option(
    "--warmup",
    type=click.IntRange(0),
    default=1,
    show_default=True,
    help="Seconds before each load, not counted",
)
@click.option(
    "--apps",
    type=CommaSeparated(click.Choice(APPS)),
    default=",".join(APPS),
    show_default=True,
    help="What to compare",
)
@click.option(
    "--scenarios",
    type=CommaSeparated(click.Choice(list(SCENARIOS))),
    default=",".join(SCENARIOS),
    show_default=True,
    help="What to do to them",
)
@out_option
def load(
    database_url: str | None,
    out: Path,
    rounds: int,
    workers: int,
    rows: int,
    seconds: int,
    warmup: int,
    connections: tuple[int, ...],
    apps: tuple[str, ...],
    scenarios: tuple[str, ...],
) -> None:
    """Compare the service under load with the usual design and with what bounds it.

    Needs wrk. Starts everything else by itself, on this machine alone, and ends it again.
    """
    out = prepare(out)
    if "pgbench" in apps and find_pgbench() is None:
        click.echo("Without pgbench, which is not installed", err=True)
        apps = tuple(app for app in apps if app != "pgbench")
    plan = Plan(apps, scenarios, connections, rounds, workers, Timing(warmup, seconds, rows))
    results = run(plan, database_url, out)
    click.echo(write_report(results, out))
    click.echo(f"\nThe report is in {os.path.relpath(out)}")


def prepare(out: Path) -> Path:
    """See to what a run needs; answers with the folder `out`, which is there then.

    Raises:
        ClickException: wrk is not installed.
    """
    require_wrk()
    # As Ctrl-C: what was started is ended in order.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    raise_file_limit()
    out = out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    return out


def run(plan: Plan, database_url: str | None, folder: Path) -> Results:
    """Start what takes part, measure every turn, and end it all.

    Args:
        database_url: of a server to use; None for an embedded one.
        folder: for data and logs while it runs.
    """
    timing = plan.timing
    with ExitStack() as stack:
        logs = Path(stack.enter_context(TemporaryDirectory(dir=folder, prefix=".logs-")))
        db = stack.enter_context(database(database_url, folder, plan.database_connections()))
        fill(db, timing.rows, logs)
        servers = {
            app: stack.enter_context(serve(app, plan.workers, db.url, logs))
            for app in plan.apps
            if app in APPLICATIONS
        }
        results = Results(
            describe_all(db),
            {
                "rows": timing.rows,
                "workers": plan.workers,
                "rounds": plan.rounds,
                "seconds": timing.seconds,
            },
        )
        for turn in with_progress(list(plan.turns()), plan.seconds()):
            if turn.app in servers:
                result = measure_server(turn, servers[turn.app], db, timing)
            else:
                result = measure_pgbench(turn, db, timing)
            results.measurements.append(result)
            if turn.scenario == "create":
                db.reset(timing.rows)
        return results


def fill(db: Database, rows: int, folder: Path) -> None:
    """Migrate and seed, as an administrator would."""
    alembic = str(ROOT / "alembic.ini")
    run_tool(db.url, folder, "alembic", "--config", alembic, "upgrade", "head")
    run_tool(db.url, folder, "items", "seed", "--rows", str(rows))
    # Whoever is under load while it runs would pay for what the others wrote.
    db.conn.execute("ALTER TABLE items SET (autovacuum_enabled = false)")
    db.reset(rows)


def describe_all(db: Database) -> dict[str, str]:
    """The machine, and the versions of all that takes part."""
    return describe() | {"PostgreSQL": db.describe(), "Load generator": f"wrk {wrk_version()}"}


def with_progress(turns: list[Turn], seconds: int) -> Iterator[Turn]:
    """The turns, with a bar that says which one it is and how long all will take."""
    label = f"{len(turns)} loads, about {seconds / 60:.0f} min"
    with click.progressbar(
        turns, label=label, file=sys.stderr, item_show_func=lambda turn: str(turn or "")
    ) as bar:
        yield from bar
