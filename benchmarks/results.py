"""What a load run measured, and the figures that are made of it."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median

# By name, the operation.
SCENARIOS = {
    "read": "GET /items/{id}",
    "create": "POST /items",
    "list": "GET /items?page=N&per_page=20",
}


@dataclass(slots=True)
class Measurement:
    """One application under one load for some seconds."""

    app: str
    scenario: str
    connections: int
    round: int
    rate: float  # requests a second that succeeded
    errors: int
    p50: float | None = None  # milliseconds
    p95: float | None = None  # milliseconds
    p99: float | None = None  # milliseconds
    app_cpu: float | None = None  # microseconds a request
    database_cpu: float | None = None  # microseconds a request
    worker_memory: float | None = None  # MiB resident, of the largest worker
    worker_connections: float | None = None  # to the database
    others: float | None = None  # cores that processes with no part in this kept busy


@dataclass(slots=True)
class Results:
    """A whole run: where, how, and what came of it."""

    machine: dict[str, str]
    options: dict[str, int]
    measurements: list[Measurement] = field(default_factory=list)

    def select(self, app: str, scenario: str, connections: int) -> list[Measurement]:
        """The measurements of one application under one load, in the order of the rounds."""
        return [
            m
            for m in self.measurements
            if (m.app, m.scenario, m.connections) == (app, scenario, connections)
        ]

    def scenarios(self) -> list[str]:
        """Those that were measured."""
        return [name for name in SCENARIOS if any(m.scenario == name for m in self.measurements)]

    def apps(self, scenario: str, connections: int) -> list[str]:
        """Those that were measured under that load, in the order in which they first were."""
        load = (scenario, connections)
        found = (m.app for m in self.measurements if (m.scenario, m.connections) == load)
        return list(dict.fromkeys(found))

    def connections(self) -> list[int]:
        """Each number of connections that was measured."""
        return sorted({m.connections for m in self.measurements})

    def save(self, path: Path) -> None:
        """Write all of it as JSON."""
        path.write_text(json.dumps(asdict(self), indent=1) + "\n")


@dataclass(slots=True)
class Spread:
    """The median over the rounds, and the rounds that are farthest from it."""

    median: float
    least: float
    most: float


def spread(values: Iterable[float | None]) -> Spread | None:
    """The spread of what is there; None where nothing is."""
    known = [value for value in values if value is not None]
    return Spread(median(known), min(known), max(known)) if known else None


def ratio(measured: list[Measurement], base: list[Measurement], member: str) -> Spread | None:
    """By how much `measured` exceeds `base` in one member, round by round."""
    by_round = {m.round: getattr(m, member) for m in base}
    return spread(
        getattr(m, member) / by_round[m.round]
        for m in measured
        if getattr(m, member) is not None and by_round.get(m.round)
    )
