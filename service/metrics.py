"""What Prometheus reads on /metrics: the sum over all workers, each of which writes to files of its
own in PROMETHEUS_MULTIPROC_DIR (docker/gunicorn.conf.py).
"""

import asyncio
import os
import platform
from bisect import bisect_left
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from prometheus_client import (
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.multiprocess import MultiProcessCollector
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.pool import QueuePool

from service import __version__
from service.coalesce import Coalescer
from service.metric_files import unchanged

SAMPLE_INTERVAL = 1.0  # seconds between looks at what goes up and down
HAND_ON_INTERVAL = 0.05  # seconds that a request is counted by its worker alone

disable_created_metrics()

BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
REQUESTS = Histogram(
    "http_request_duration_seconds",
    "Requests answered, and how long they took.",
    ["method", "route", "status"],
    buckets=BUCKETS,
)
IN_PROGRESS = Gauge("http_requests_in_progress", "Requests under way.", multiprocess_mode="livesum")
DEADLINE_EXCEEDED = Counter("deadline_exceeded_total", "Requests given up after REQUEST_TIMEOUT.")
SET_SIZE = Histogram(
    "coalescer_set_size",
    "Calls that were sent to the database as one set.",
    ["call"],
    buckets=(1, 2, 5, 10, 20, 50, 100),
)
WAITING = Gauge(
    "coalescer_waiting", "Calls that wait for a set.", ["call"], multiprocess_mode="livesum"
)
TRANSACTIONS = Gauge(
    "transactions_open",
    "Transactions under way, or waiting for a connection.",
    multiprocess_mode="livesum",
)
CONNECTIONS = Gauge(
    "database_connections_in_use",
    "Connections to the database that are in use.",
    multiprocess_mode="livesum",
)
MOST_CONNECTIONS = Gauge(
    "database_connections_max",
    "Connections to the database that may be open: pool and overflow of all workers.",
    multiprocess_mode="livesum",
)
RATE_LIMITED = Counter("rate_limited_requests_total", "Requests refused with 429.", ["kind"])
RATE_LIMIT_FAILURES = Counter(
    "rate_limit_failures_total", "Requests that passed uncounted, as Redis did not answer."
)
BUILD = Gauge(
    "service_build_info",
    "What is running.",
    ["version", "python"],
    multiprocess_mode="livemax",
)


@dataclass(slots=True)
class Answered:
    """Requests that were answered alike, by how long they took."""

    numbers: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS) + 1))
    seconds: float = 0.0


class RequestStatistics:
    """The requests that this process serves and has served."""

    def __init__(self) -> None:
        self.in_progress = 0
        self._answered: defaultdict[tuple[str, str | None, int], Answered] = defaultdict(Answered)

    def observe(self, method: str, route: str | None, status: int, seconds: float) -> None:
        """Count a request that was answered."""
        if not self._answered:
            asyncio.get_running_loop().call_later(HAND_ON_INTERVAL, self.hand_on)
        answered = self._answered[method, route, status]
        answered.numbers[bisect_left(BUCKETS, seconds)] += 1
        answered.seconds += seconds

    def hand_on(self) -> None:
        """Add what was counted to the metric; to do that with each request takes more time."""
        for (method, route, status), answered in self._answered.items():
            histogram = REQUESTS.labels(method, route or "unmatched", status)
            histogram._sum.inc(answered.seconds)
            for bucket, number in zip(histogram._buckets, answered.numbers, strict=True):
                if number:
                    bucket.inc(number)
        self._answered.clear()


_queues: WeakKeyDictionary[Coalescer[Any, Any], str] = WeakKeyDictionary()


def watch_queue(call: str, coalescer: Coalescer[Any, Any]) -> None:
    """Have the calls that wait in `coalescer` sampled, by the name of what they call."""
    _queues[coalescer] = call


async def sample(statistics: RequestStatistics, engine: AsyncEngine) -> None:
    """Look again and again at what goes up and down: to note each change would cost more."""
    pool = engine.pool
    assert isinstance(pool, QueuePool)
    BUILD.labels(__version__, platform.python_version()).set(1)
    while True:
        IN_PROGRESS.set(statistics.in_progress)
        CONNECTIONS.set(pool.checkedout())
        MOST_CONNECTIONS.set(pool.size() + pool._max_overflow)
        for coalescer, call in _queues.items():
            WAITING.labels(call).set(coalescer.waiting)
        await asyncio.sleep(SAMPLE_INTERVAL)


def exposition() -> bytes:
    """All of it, in Prometheus's text format; of all workers, where there are several."""
    if (directory := os.environ.get("PROMETHEUS_MULTIPROC_DIR")) is None:
        return generate_latest(REGISTRY)
    registry = CollectorRegistry()
    MultiProcessCollector(registry)
    with unchanged(Path(directory)):
        return generate_latest(registry)
