"""Measuring: every variant runs meanwhile, and one at a time is under load."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

from benchmarks.database import database
from benchmarks.load import describe_all, fill, with_progress
from benchmarks.measure import measure_server
from benchmarks.plan import OVERHEAD, OWN_CONNECTIONS, Timing, Turn
from benchmarks.results import Results
from benchmarks.servers import serve
from benchmarks.steps.memory import Memory, memory
from benchmarks.variants.catalog import SERVICE, Variant

CONNECTIONS = 64  # clients at once
BASE_TURNS = 3  # of the service in each round: its noise is in every difference


@dataclass(slots=True)
class StepResults(Results):
    """What a run measured, and by variant the memory it had at its end."""

    memory: dict[str, Memory] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be measured, and how; `timing.warmup` is before the first round only."""

    variants: Sequence[Variant]
    scenarios: Sequence[str]
    rounds: int
    workers: int
    timing: Timing

    def turns(self) -> Iterator[Turn]:
        """All of them, each round in an order of its own, so that drift meets all alike."""
        for number in range(1, self.rounds + 1):
            shuffle = Random(number)
            for scenario in self.scenarios:
                names = [v.name for v in self.variants if scenario in v.scenarios]
                names += [SERVICE.name] * (BASE_TURNS - 1)
                for name in shuffle.sample(names, len(names)):
                    yield Turn(number, name, scenario, CONNECTIONS)

    def database_connections(self) -> int:
        """How many there may be at once."""
        return self.workers * sum(v.connections for v in self.variants) + OWN_CONNECTIONS


def run(order: Order, database_url: str | None, folder: Path) -> StepResults:
    """Start the variants, measure every turn, and end it all.

    Args:
        database_url: of a server to use; None for an embedded one.
        folder: for data and logs while it runs.
    """
    timing = order.timing
    with ExitStack() as stack:
        logs = Path(stack.enter_context(TemporaryDirectory(dir=folder, prefix=".logs-")))
        db = stack.enter_context(database(database_url, folder, order.database_connections()))
        fill(db, timing.rows, logs)
        servers = {
            v.name: stack.enter_context(
                serve(v.name, order.workers, db.url, logs, v.command(), v.settings)
            )
            for v in order.variants
        }
        results = StepResults(
            describe_all(db),
            {
                "rows": timing.rows,
                "workers": order.workers,
                "rounds": order.rounds,
                "seconds": timing.seconds,
            },
        )
        turns = list(order.turns())
        for turn in with_progress(turns, len(turns) * (timing.seconds + OVERHEAD // 2)):
            warmup = timing.warmup if turn.round == 1 else 0
            result = measure_server(turn, servers[turn.app], db, replace(timing, warmup=warmup))
            results.measurements.append(result)
            if turn.scenario == "create":
                db.reset(timing.rows)
        results.memory = {name: memory(server) for name, server in servers.items()}
        return results
