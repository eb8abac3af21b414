"""The steps of a request: what each layer costs, and what each change to the service would."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from benchmarks.comparison import Comparison, Load, Options, compare
from benchmarks.peers.common import POOL_SIZE
from benchmarks.report import table, write
from benchmarks.servers import SCENARIOS, Application

SERVICE = Application("service", "as `items serve` runs it")
QUIET = {"LOG_LEVEL": "WARNING"}


def _layer(name: str, factory: str, meaning: str, **options: Any) -> Application:
    """Return an application of `variants/stack.py`."""
    target = f"benchmarks.variants.stack:{factory}()"
    return Application(name, meaning, target, scenarios=["read"], pool=0, **options)


def _change(name: str, factory: str, meaning: str, **options: Any) -> Application:
    """Return an application of `variants/changes.py`."""
    return Application(name, meaning, f"benchmarks.variants.changes:{factory}", **options)


def _worker(name: str, worker: str, meaning: str) -> Application:
    """Return the service with a worker of `variants/workers.py`."""
    return Application(name, meaning, worker=f"benchmarks.variants.workers.{worker}")


# Each layer adds one thing to the previous one. All but the service return the same bytes.
LAYERS = (
    _layer("bare", "bare", "an ASGI callable under the service's Gunicorn, worker and event loop"),
    _layer("Starlette", "starlette_route", "a Starlette route"),
    _layer("FastAPI", "fastapi_route", "a FastAPI route with a path parameter"),
    _layer("direct call", "dispatched", "the same, called by `http/dispatch.py`"),
    _layer(
        "+ middleware",
        "with_middleware",
        "behind `RequestMiddleware`: request id, status, duration; LOG_LEVEL=WARNING",
        settings=QUIET,
    ),
    _layer("+ access log", "with_middleware", "with the JSON line for each request"),
    SERVICE,
)

CHANGES = (
    Application("control", "the service once more: smaller differences are noise"),
    _change(
        "called by FastAPI",
        "called_by_fastapi()",
        "FastAPI finds and calls each operation",
    ),
    _change(
        "log through structlog",
        "logged_through_structlog()",
        "the access log passes all of structlog's processors",
    ),
    Application("no access log", "LOG_LEVEL=WARNING", settings=QUIET),
    _worker("default collector", "DefaultCollector", "no `gc.freeze`, and Python's own thresholds"),
    _worker("asyncio", "AsyncioLoop", "asyncio's event loop instead of uvloop"),
    _worker("h11", "H11", "h11 parses instead of httptools; a response is still one write"),
    _worker("two writes", "TwoWrites", "uvicorn's protocol, which writes head and body separately"),
    Application(
        "rate limit on",
        "counters in memory, and a limit that is never reached",
        settings={"RATE_LIMIT_READ": "100000000/second"},
    ),
    _change("4 in flight", "sets_in_flight(4)", "up to 4 sets of a kind in flight", pool=16),
    _change(
        "not coalesced",
        "not_coalesced()",
        "each call is its own statement, on its own connection",
        pool=POOL_SIZE,
    ),
)

FIGURES = ("requests/s", "p99 ms", "app CPU us", "errors", "worker MiB")

VARIANTS = {app.name: app for app in (*LAYERS, *CHANGES)}

METHOD = """\
Every variant runs during the whole measurement, with the service's Gunicorn configuration and its
log in a file. One at a time is under load. Each round measures every variant once; every second
round runs in reverse order.

A figure is the median over the rounds. A difference or a ratio is taken within each round: the
median, with the lowest and the highest round in brackets. A change smaller than that of the row
"control" is not a proven change.

CPU time is that of Gunicorn's master and workers, user and system, divided by the requests that
succeeded. It is the most reliable figure. Requests per second also depend on wrk and PostgreSQL,
which share the cores with the application, and p99 depends on every process of the machine. Among
the layers only the service has a database. Worker MiB is the resident memory of the largest worker
after a load, the maximum over the rounds."""


def run(names: Sequence[str], options: Options) -> None:
    """Measure the variants called `names` and the service; write the report and its figures."""
    chosen = [app for name, app in VARIANTS.items() if name in names or app is SERVICE]
    comparison = compare(chosen, options)
    write(options.out, "steps", report(comparison), comparison.records())


def report(comparison: Comparison) -> str:
    """Return the report as Markdown."""
    options = comparison.options
    parts = [
        "# Steps of a request",
        f"{options.seconds} s for each load, rounds: {options.rounds}, workers:"
        f" {options.workers}, {options.rows:,} items in the table.",
    ]
    for load, apps in comparison.samples.items():
        title = f"{SCENARIOS[load.scenario]}, {load.connections} connections"
        layers = [app for app in LAYERS if app.name in apps]
        if len(layers) > 1:
            parts += [f"## Layers, {title}", _layers(comparison, load, layers), _meanings(layers)]
        changes = [app for app in CHANGES if app.name in apps]
        if changes:
            changed = _changes(comparison, load, changes)
            parts += [f"## The service with one change, {title}", changed, _meanings(changes)]
    parts += ["## Method", METHOD, "## Machine", table(["", ""], list(comparison.machine.items()))]
    return "\n\n".join(parts) + "\n"


def _layers(comparison: Comparison, load: Load, apps: Sequence[Application]) -> str:
    names = [app.name for app in apps]
    added = [
        comparison.difference(load, upper, lower, "app CPU us") for lower, upper in pairwise(names)
    ]
    rows = [
        [name, *comparison.cells(load, name, FIGURES), more]
        for name, more in zip(names, ["-", *added], strict=True)
    ]
    return table(["layer", *FIGURES, "CPU us added to the previous layer"], rows)


def _changes(comparison: Comparison, load: Load, apps: Sequence[Application]) -> str:
    headers = ["the service with", *FIGURES]
    headers += ["CPU us more than the service", "requests x service", "p99 x service"]
    rows = [
        [
            name,
            *comparison.cells(load, name, FIGURES),
            comparison.difference(load, name, SERVICE.name, "app CPU us"),
            *(
                comparison.ratio(load, name, SERVICE.name, figure)
                for figure in ("requests/s", "p99 ms")
            ),
        ]
        for name in (SERVICE.name, *(app.name for app in apps))
    ]
    return table(headers, rows)


def _meanings(apps: Sequence[Application]) -> str:
    return "\n".join(f"* **{app.name}**: {app.meaning}" for app in apps)
