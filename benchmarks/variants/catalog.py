"""Every variant, with what it undoes: what the tables have, in their order."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from benchmarks.peers.common import POOL_SIZE
from benchmarks.servers import as_the_service

SETS = 8  # connections that the sets of one worker hold at most
READ = frozenset({"read"})
EVERY = frozenset({"read", "create", "list"})
QUIET = {"LOG_LEVEL": "WARNING"}


@dataclass(frozen=True, slots=True)
class Variant:
    """How Gunicorn is to run it, and what it tells."""

    name: str
    meaning: str
    target: str = "service.main:create_app()"
    worker: str = "service.server.worker.Worker"
    settings: Mapping[str, str] = field(default_factory=dict)  # environment variables
    arguments: tuple[str, ...] = ()  # of Gunicorn
    scenarios: frozenset[str] = READ
    connections: int = SETS  # to the database, of one worker at most

    def command(self) -> list[str]:
        """What runs it, in an environment with its settings."""
        return as_the_service(self.target, "--worker-class", self.worker, *self.arguments)


def _step(name: str, factory: str, meaning: str, **options: Any) -> Variant:
    target = f"benchmarks.variants.ladder:{factory}()"
    return Variant(name, meaning, target=target, connections=0, **options)


def _change(name: str, factory: str, meaning: str, **options: Any) -> Variant:
    return Variant(name, meaning, target=f"benchmarks.variants.changes:{factory}", **options)


def _worker(name: str, worker: str, meaning: str, **options: Any) -> Variant:
    return Variant(name, meaning, worker=f"benchmarks.variants.workers.{worker}", **options)


SERVICE = Variant("the service", "as `items serve` runs it", scenarios=EVERY)

# Each step has what the one before it has. All answer with the same bytes but the service.
LADDER = (
    _step("bare", "bare", "an ASGI callable under the service's Gunicorn, worker and event loop"),
    _step("Starlette", "starlette_route", "a route of Starlette's"),
    _step("FastAPI", "fastapi_route", "a FastAPI route with its path parameter, as one writes it"),
    _step(
        "StrictRoute",
        "strict_route",
        "the same operation through `service.routing.StrictRoute`, which is instead of FastAPI's"
        " way to call it",
    ),
    _step(
        "+ middleware",
        "surrounded",
        "behind `RequestMiddleware`: request id, status, duration; LOG_LEVEL=WARNING",
        settings=QUIET,
    ),
    _step("+ access log", "surrounded", "with the JSON line for each request"),
    SERVICE,
)

CHANGES = (
    _change(
        "include_router",
        "included()",
        "routes given to `include_router`, not to `FastAPI(routes=...)`; FastAPI then also makes"
        " its own handler anew, so that operations are called its way: compare with the next",
    ),
    _change("called by FastAPI", "called_by_fastapi()", "no operation is called directly"),
    _change(
        "log through structlog",
        "logged_through_structlog()",
        "the access log takes structlog's chain of processors",
        scenarios=EVERY,
    ),
    Variant("no access log", "LOG_LEVEL=WARNING", settings=QUIET, scenarios=EVERY),
    _worker(
        "collector untuned",
        "UntunedCollector",
        "no `gc.freeze`, and Python's own thresholds",
        scenarios=EVERY,
    ),
    _worker("asyncio", "AsyncioLoop", "asyncio's event loop instead of uvloop"),
    _worker("h11", "H11", "h11 parses instead of httptools; an answer is one write still"),
    _worker(
        "two writes",
        "TwoWrites",
        "uvicorn's own protocol, which sends head and body apart",
        scenarios=EVERY,
    ),
    _change("telemetry", "with_telemetry()", "FastAPI's OpenTelemetry hook left on"),
    Variant(
        "rate limit on",
        "counters in memory, and a limit that is never reached",
        settings={"RATE_LIMIT_READ": "100000000/second"},
    ),
    Variant("PYTHONOPTIMIZE=2", "no asserts, no docstrings", settings={"PYTHONOPTIMIZE": "2"}),
    *(
        _change(
            f"{most} in flight",
            f"sets_in_flight({most})",
            f"{most} sets of a kind under way at once at most",
            scenarios=EVERY,
        )
        for most in (1, 2, 4)
    ),
    Variant(
        "not coalesced",
        "each call is a statement of its own, on a connection of its own",
        target="benchmarks.variants.changes:each_alone()",
        scenarios=EVERY,
        connections=POOL_SIZE,
    ),
    Variant(
        "session",
        "operations that take a session, and a transaction, from `Depends(get_db)`",
        target="benchmarks.variants.changes:with_sessions()",
        scenarios=frozenset({"read", "create"}),
        connections=POOL_SIZE,
    ),
    Variant(
        "short backlog",
        "a backlog of 64, and 2 seconds of keep-alive (Gunicorn's own)",
        arguments=("--backlog", "64", "--keep-alive", "2"),
    ),
    Variant("--preload", "loaded before Gunicorn forks", arguments=("--preload",)),
)

# Each once; what differences refer to comes first.
VARIANTS = {variant.name: variant for variant in (SERVICE, *LADDER, *CHANGES)}
