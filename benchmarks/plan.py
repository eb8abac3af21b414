"""Who bears which load, and when."""

from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.peers.common import POOL_SIZE, THREADS
from benchmarks.pgbench import MAX_CLIENTS
from benchmarks.servers import APPLICATIONS

APPS = (*APPLICATIONS, "pgbench")
OVERHEAD = 2  # seconds around each load: settling, and bringing the table back
OWN_CONNECTIONS = 10  # to the database: the benchmark's, and those that the server reserves


@dataclass(slots=True)
class Timing:
    """How long an application is under load, in seconds, and how many items the table has."""

    warmup: int
    seconds: int
    rows: int


@dataclass(slots=True)
class Turn:
    """Whose turn it is, and what it has to bear."""

    round: int
    app: str
    scenario: str
    connections: int

    def __str__(self) -> str:
        """For the progress bar."""
        return f"round {self.round}: {self.app}, {self.scenario}, {self.connections}"


@dataclass(slots=True)
class Plan:
    """What is compared, under which loads."""

    apps: tuple[str, ...]
    scenarios: tuple[str, ...]
    connections: tuple[int, ...]
    rounds: int
    workers: int
    timing: Timing

    def turns(self) -> Iterator[Turn]:
        """All of them; in each round another application is the first to bear a load."""
        for number in range(1, self.rounds + 1):
            for scenario in self.scenarios:
                for connections in self.connections:
                    apps = [app for app in self.apps if _takes_part(app, scenario, connections)]
                    first = (number - 1) % len(apps) if apps else 0
                    for app in apps[first:] + apps[:first]:
                        yield Turn(number, app, scenario, connections)

    def database_connections(self) -> int:
        """How many there may be at once: full pools, and pgbench's clients."""
        of_worker = {"service": POOL_SIZE, "usual": POOL_SIZE, "threads": THREADS}
        pools = sum(of_worker.get(app, 0) for app in self.apps)
        clients = MAX_CLIENTS if "pgbench" in self.apps else 0
        return pools * self.workers + clients + OWN_CONNECTIONS

    def seconds(self) -> int:
        """About how long all of it takes."""
        return len(list(self.turns())) * (self.timing.warmup + self.timing.seconds + OVERHEAD)


def _takes_part(app: str, scenario: str, connections: int) -> bool:
    if app == "nothing":
        return scenario == "read"
    if app == "pgbench":
        return scenario == "create" and connections <= MAX_CLIENTS
    return True
