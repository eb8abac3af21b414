"""The load comparison: the service, the usual FastAPI designs, and upper bounds."""

from collections.abc import Sequence

from benchmarks.chart import chart
from benchmarks.comparison import Comparison, Load, Options, compare
from benchmarks.generators import PGBENCH_CLIENTS
from benchmarks.peers.common import POOL_SIZE, THREADS
from benchmarks.report import table, write
from benchmarks.servers import SCENARIOS, Application

SUMMARY_LOAD = 64  # connections of the summary, if they were measured

USUAL_WORKER = "uvicorn_worker.UvicornWorker"

APPLICATIONS = {
    app.name: app
    for app in (
        Application("service", "this service as `items serve` runs it, with its defaults"),
        Application(
            "usual",
            "the usual design of FastAPI's tutorial and the popular templates: an ORM session per"
            " request, a pool of 20 + 10 connections, `pool_pre_ping`, commit and refresh, an exact"
            " count, a `BaseHTTPMiddleware` for the log. FastAPI serialises the response models,"
            " as it deprecates `ORJSONResponse`",
            target="benchmarks.peers.usual:create_app()",
            worker=USUAL_WORKER,
            has_service_config=False,
            pool=POOL_SIZE,
        ),
        Application(
            "threads",
            "the same with `def` endpoints in FastAPI's thread pool, on psycopg",
            target="benchmarks.peers.threads:create_app()",
            worker=USUAL_WORKER,
            has_service_config=False,
            pool=THREADS,
        ),
        Application(
            "no-op",
            "a FastAPI route that does nothing, behind the service's middleware and log",
            target="benchmarks.variants.stack:no_op()",
            scenarios=["read"],
            pool=0,
        ),
        Application(
            "pgbench",
            "the same insert from PostgreSQL's own load generator, prepared, one a transaction;"
            f" up to {PGBENCH_CLIENTS} clients",
            target="",
            scenarios=["create"],
            max_clients=PGBENCH_CLIENTS,
        ),
    )
}

FIGURES = (
    *("requests/s", "p50 ms", "p95 ms", "p99 ms", "errors"),
    *("app CPU us", "db CPU us", "worker MiB"),
)
RATIOS = ("requests x usual", "p99 x usual")
SUMMARY_HEADERS = (
    *("", "requests/s", "requests x usual", "p99 ms", "p99 x usual"),
    *("requests x no-op", "requests x pgbench"),
)

METHOD = """\
wrk, PostgreSQL and the application share the cores of this machine. The figures compare designs
under the same conditions; they do not predict what a larger machine would serve.

All applications run during the whole measurement, and one at a time is under load. Each round
measures every application once; every second round runs in reverse order. A figure is the median
over the rounds. A ratio is taken within each round: the median, with the lowest and the highest
round in brackets. Errors are the sum over the rounds.

CPU time is that of all processes of the application, or of PostgreSQL, divided by the requests
that succeeded, in microseconds. Worker MiB is the resident memory of the largest worker after a
load, the maximum over the rounds.

wrk sends the next request on a connection as soon as it has the response. Latency at many
connections is therefore mostly queueing.

Created rows are deleted after each load; the table is then vacuumed and analysed, and autovacuum
is off for it. So each load finds the same table. Every application logs one line of JSON per
request to a file. Pools, timeouts and server settings that are not named here have their
defaults."""


def run(names: Sequence[str], options: Options) -> None:
    """Compare the applications called `names`; write the report, the charts and the raw figures."""
    comparison = compare([APPLICATIONS[name] for name in names], options)
    for scenario in options.scenarios:
        (options.out / f"{scenario}.svg").write_text(chart(comparison, scenario))
    write(options.out, "load", report(comparison), comparison.records())


def report(comparison: Comparison) -> str:
    """Return the report as Markdown."""
    options = comparison.options
    connections = options.connections
    at = SUMMARY_LOAD if SUMMARY_LOAD in connections else max(connections)
    parts = [
        "# Load comparison",
        f"{options.seconds} s for each load, rounds: {options.rounds}, workers: {options.workers},"
        f" {options.rows:,} items in the table.",
        table(
            SUMMARY_HEADERS, [_summary(comparison, Load(each, at)) for each in options.scenarios]
        ),
        f"The service at {at} connections. Each `x` is a ratio of the service's figure to that of"
        " the application named:",
        "\n".join(f"* **{app.name}**: {app.meaning}" for app in APPLICATIONS.values()),
    ]
    for scenario in options.scenarios:
        title = SCENARIOS[scenario]
        headers = ["connections", "application", *FIGURES, *RATIOS]
        rows = [
            _row(comparison, load, app)
            for load in comparison.loads(scenario)
            for app in comparison.samples[load]
        ]
        parts += [f"## {title}", f"![{title}, medians]({scenario}.svg)", table(headers, rows)]
    parts += ["## Method", METHOD, "## Machine", table(["", ""], list(comparison.machine.items()))]
    return "\n\n".join(parts) + "\n"


def _summary(comparison: Comparison, load: Load) -> list[str]:
    """Return the service's row of the summary."""
    rate, p99 = comparison.cells(load, "service", ["requests/s", "p99 ms"])
    return [
        SCENARIOS[load.scenario],
        *(rate, comparison.ratio(load, "service", "usual", "requests/s")),
        *(p99, comparison.ratio(load, "service", "usual", "p99 ms")),
        *(comparison.ratio(load, "service", bound, "requests/s") for bound in ("no-op", "pgbench")),
    ]


def _row(comparison: Comparison, load: Load, app: str) -> list[str]:
    """Return an application's row under one load."""
    return [
        f"{load.connections:,}",
        app,
        *comparison.cells(load, app, FIGURES),
        *(comparison.ratio(load, app, "usual", figure) for figure in ("requests/s", "p99 ms")),
    ]
