"""Compare applications under load: all of them run, and one at a time is under load."""

import math
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks import generators
from benchmarks.database import Database, database
from benchmarks.generators import Figures
from benchmarks.report import machine
from benchmarks.rounds import alternate, differences, extremes, ratios, short
from benchmarks.servers import Application, Server, serve

WARMUP = 1  # seconds before each load, not counted
MICRO = 1_000_000
COMBINED_BY: dict[str, Callable[[list[float]], float]] = {"errors": sum, "worker MiB": max}


@dataclass(frozen=True, slots=True)
class Options:
    """How to compare; each is an option of the command line, which explains it."""

    database: str | None
    out: Path
    rows: int
    workers: int
    scenarios: Sequence[str]
    connections: Sequence[int]
    rounds: int
    seconds: int


@dataclass(frozen=True, slots=True)
class Load:
    """A scenario at a number of clients."""

    scenario: str
    connections: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """What a run measured: by load and application, the figures of each round, by name."""

    options: Options
    machine: dict[str, str]
    samples: dict[Load, dict[str, list[Figures]]]

    def values(self, load: Load, app: str, figure: str) -> list[float]:
        """Return a figure in each round; NaN where it was not measured."""
        rounds = self.samples.get(load, {}).get(app, [{}] * self.options.rounds)
        return [figures.get(figure, math.nan) for figures in rounds]

    def ratio(self, load: Load, app: str, base: str, figure: str) -> str:
        """Return the ratio of a figure of `app` to that of `base`, taken within each round."""
        both = (self.values(load, name, figure) for name in (app, base))
        return str(extremes(ratios(*both)))

    def difference(self, load: Load, app: str, base: str, figure: str) -> str:
        """Return how much a figure of `app` exceeds that of `base`, taken within each round."""
        both = (self.values(load, name, figure) for name in (app, base))
        return str(extremes(differences(*both)))

    def cells(self, load: Load, app: str, figures: Iterable[str]) -> list[str]:
        """Return the cells of an application for `figures`: the medians, unless COMBINED_BY."""
        return [
            short(COMBINED_BY.get(figure, median)(self.values(load, app, figure)))
            for figure in figures
        ]

    def loads(self, scenario: str) -> list[Load]:
        """Return the loads of one scenario."""
        return [load for load in self.samples if load.scenario == scenario]

    def records(self) -> list[dict[str, Any]]:
        """Return the figures of each round as a flat mapping."""
        return [
            {**asdict(load), "app": app, "round": number, **figures}
            for load, apps in self.samples.items()
            for app, rounds in apps.items()
            for number, figures in enumerate(rounds, 1)
        ]


def compare(apps: Sequence[Application], options: Options) -> Comparison:
    """Start the applications, measure them in alternating rounds, and stop them.

    An application without a target is pgbench.
    """
    pools = options.workers * sum(app.pool for app in apps if app.target)
    version = generators.wrk_version()
    if not all(app.target for app in apps):
        generators.find_pgbench()
    with ExitStack() as stack:
        logs = Path(stack.enter_context(TemporaryDirectory(dir=options.out, prefix=".logs-")))
        db = stack.enter_context(
            database(options.database, options.out, pools + generators.PGBENCH_CLIENTS)
        )
        db.fill(options.rows, logs)
        servers = {
            app.name: stack.enter_context(serve(app, options.workers, db.url, logs))
            for app in apps
            if app.target
        }
        versions = {"PostgreSQL": db.describe(), "Load generator": f"wrk {version}"}
        comparison = Comparison(options, machine() | versions, {})
        for load, app in _turns(apps, options):
            figures = _measure(load, servers.get(app), db, options)
            comparison.samples.setdefault(load, {}).setdefault(app, []).append(figures)
            if load.scenario == "create":
                db.reset(options.rows)
        return comparison


def _turns(apps: Sequence[Application], options: Options) -> Iterator[tuple[Load, str]]:
    """Yield which application is under which load next, and report progress to stderr."""
    turns = []
    for load in (Load(*each) for each in product(options.scenarios, options.connections)):
        names = [app.name for app in apps if app.takes_part(load.scenario, load.connections)]
        turns += [(load, name) for name in alternate(names, options.rounds)]
    for turn, (load, name) in enumerate(turns, 1):
        progress = f"{turn}/{len(turns)}: {name}, {load.scenario}, {load.connections} connections"
        print(progress, file=sys.stderr)
        yield load, name


def _measure(load: Load, server: Server | None, db: Database, options: Options) -> Figures:
    """Return the figures of one load. CPU is the time of all processes for one request."""
    if server is None:
        db_before = db.cpu_seconds()
        figures = generators.pgbench(db.url, load.connections, options.seconds)
    else:
        target = (server.port, load.scenario, load.connections, options.rows)
        generators.wrk(*target, seconds=WARMUP)
        server.settle()
        app_before, db_before = server.cpu_seconds(), db.cpu_seconds()
        figures = generators.wrk(*target, seconds=options.seconds)
        app_used = server.cpu_seconds() - app_before
        figures["app CPU us"] = app_used * MICRO / max(figures["requests"], 1)
        figures["worker MiB"] = server.memory()
    db_used = db.cpu_seconds() - db_before
    figures["db CPU us"] = db_used * MICRO / max(figures["requests"], 1)
    if server:
        server.settle()
    return figures
