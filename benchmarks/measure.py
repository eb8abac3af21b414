"""One turn: one application under one load, from warm-up to clean-up."""

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks import pgbench, wrk
from benchmarks.database import Database
from benchmarks.plan import Timing, Turn
from benchmarks.processes import busy_seconds, ended_seconds
from benchmarks.results import Measurement
from benchmarks.servers import Server

MICRO = 1_000_000


@dataclass(slots=True)
class Usage:
    """CPU time used up to a moment, in seconds, by each of those who share the machine."""

    app: float
    database: float | None  # None where it runs elsewhere
    generator: float
    machine: float


def measure_server(turn: Turn, server: Server, db: Database, timing: Timing) -> Measurement:
    """Load an application with wrk."""
    held = 0

    def count_connections() -> None:
        nonlocal held
        held = db.connections(server.connected_as)

    def load(seconds: int, midway: Callable[[], None]) -> wrk.Outcome:
        return wrk.drive(server.port, turn.scenario, turn.connections, seconds, timing.rows, midway)

    if timing.warmup:
        load(timing.warmup, lambda: None)
        server.settle()
    before = _usage(db, server)
    outcome = load(timing.seconds, count_connections)
    result = _result(turn, outcome, before, _usage(db, server))
    result.worker_memory = server.largest_worker()
    result.worker_connections = held / server.workers if held else None
    server.settle()
    return result


def measure_pgbench(turn: Turn, db: Database, timing: Timing) -> Measurement:
    """Insert with pgbench, which needs no warming up."""
    program = pgbench.find_pgbench()
    assert program is not None
    before = _usage(db)
    outcome = pgbench.insert(program, db.url, turn.connections, timing.seconds)
    return _result(turn, outcome, before, _usage(db))


def _usage(db: Database, server: Server | None = None) -> Usage:
    return Usage(
        app=server.cpu_seconds() if server else 0,
        database=db.cpu_seconds(),
        generator=ended_seconds(),
        machine=busy_seconds(),
    )


def _result(turn: Turn, outcome: wrk.Outcome, before: Usage, after: Usage) -> Measurement:
    """What a load generator saw, and what it took, as a measurement of that turn."""
    result = Measurement(
        app=turn.app,
        scenario=turn.scenario,
        connections=turn.connections,
        round=turn.round,
        rate=outcome.requests / outcome.seconds,
        errors=outcome.errors,
        p50=outcome.p50,
        p95=outcome.p95,
        p99=outcome.p99,
    )
    app = after.app - before.app
    if app and outcome.requests:
        result.app_cpu = app * MICRO / outcome.requests
    if before.database is not None and after.database is not None and outcome.requests:
        database = after.database - before.database
        result.database_cpu = database * MICRO / outcome.requests
        ours = app + database + after.generator - before.generator
        result.others = max(0.0, after.machine - before.machine - ours) / outcome.seconds
    return result
