"""The metrics, and their text on /metrics: the sum over all workers.

Each worker writes to files in PROMETHEUS_MULTIPROC_DIR, which docker/gunicorn.conf.py sets.
"""

import asyncio
import os
import platform
from bisect import bisect_left
from collections import defaultdict
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from threading import Lock
from time import monotonic
from typing import Protocol
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
from service.observability.metric_files import use_slot
from service.observability.stderr import stderr

SAMPLE_INTERVAL = 1.0  # seconds between samples of the gauges
FLUSH_INTERVAL = 0.05  # seconds until finished requests reach the metrics
SCRAPE_INTERVAL = 1.0  # seconds for which scrapes share one answer

# Methods that a client makes up share one label.
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
OTHER_METHODS = "other"

disable_created_metrics()
if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
    use_slot(Path(os.environ["PROMETHEUS_MULTIPROC_DIR"]))

BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
REQUESTS = Histogram(
    "http_request_duration_seconds",
    "Requests answered, and how long they took.",
    ["method", "route", "status"],
    buckets=BUCKETS,
)
IN_PROGRESS = Gauge(
    "http_requests_in_progress", "Requests in progress.", multiprocess_mode="livesum"
)
DEADLINE_EXCEEDED = Counter("deadline_exceeded_total", "Requests that exceeded REQUEST_TIMEOUT.")
SET_SIZE = Histogram(
    "coalescer_set_size",
    "Calls sent to the database as one set.",
    ["call"],
    buckets=(1, 2, 5, 10, 20, 50, 100),
)
WAITING = Gauge(
    "coalescer_waiting", "Calls that wait for a set.", ["call"], multiprocess_mode="livesum"
)
TRANSACTIONS = Gauge(
    "transactions_open",
    "Transactions open, or waiting for a connection.",
    multiprocess_mode="livesum",
)
CONNECTIONS = Gauge(
    "database_connections_in_use",
    "Database connections in use.",
    multiprocess_mode="livesum",
)
MOST_CONNECTIONS = Gauge(
    "database_connections_max",
    "Maximum of database connections: pool and overflow of all workers.",
    multiprocess_mode="livesum",
)
RATE_LIMITED = Counter("rate_limited_requests_total", "Requests refused with 429.", ["kind"])
RATE_LIMIT_FAILURES = Counter(
    "rate_limit_failures_total", "Requests that passed uncounted because Redis failed."
)
LOG_LINES_DROPPED = Counter(
    "log_lines_dropped_total", "Lines of the log that were dropped, as nothing read them."
)
BUILD = Gauge(
    "service_build_info",
    "What is running.",
    ["version", "python"],
    multiprocess_mode="livemax",
)


@dataclass(slots=True)
class Answered:
    """Finished requests of one method, route and status: how many fall in each bucket."""

    numbers: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS) + 1))
    seconds: float = 0.0


class RequestStatistics:
    """The requests of this process: those in progress, and those not yet in the metrics."""

    def __init__(self) -> None:
        self.in_progress = 0
        self._answered: defaultdict[tuple[str, str | None, int], Answered] = defaultdict(Answered)

    def observe(self, method: str, route: str | None, status: int, seconds: float) -> None:
        """Count a finished request."""
        if not self._answered:
            asyncio.get_running_loop().call_later(FLUSH_INTERVAL, self.flush)
        if method not in METHODS:
            method = OTHER_METHODS
        answered = self._answered[method, route, status]
        answered.numbers[bisect_left(BUCKETS, seconds)] += 1
        answered.seconds += seconds

    def flush(self) -> None:
        """Add the finished requests to the metric; doing so for each request costs more."""
        for (method, route, status), answered in self._answered.items():
            histogram = REQUESTS.labels(method, route or "unmatched", status)
            histogram._sum.inc(answered.seconds)
            for bucket, number in zip(histogram._buckets, answered.numbers, strict=True):
                if number:
                    bucket.inc(number)
        self._answered.clear()


class Queue(Protocol):
    """Anything with a number of waiting calls."""

    @property
    def waiting(self) -> int:
        """The number of calls that wait."""


_queues: WeakKeyDictionary[Queue, str] = WeakKeyDictionary()


def watch_queue(call: str, queue: Queue) -> None:
    """Sample the length of `queue` under the name of the call."""
    _queues[queue] = call


async def sample(statistics: RequestStatistics, engine: AsyncEngine) -> None:
    """Sample the gauges until cancelled; updating them with each change costs more."""
    pool = engine.pool
    assert isinstance(pool, QueuePool)
    BUILD.labels(__version__, platform.python_version()).set(1)
    while True:
        IN_PROGRESS.set(statistics.in_progress)
        CONNECTIONS.set(pool.checkedout())
        MOST_CONNECTIONS.set(pool.size() + pool._max_overflow)
        LOG_LINES_DROPPED.inc(stderr.take_dropped())
        for queue, call in _queues.items():
            WAITING.labels(call).set(queue.waiting)
        await asyncio.sleep(SAMPLE_INTERVAL)


class Exposition:
    """The text of /metrics, which anyone may request: it is made once in `SCRAPE_INTERVAL`."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._text = b""
        self._expires = -inf

    def __call__(self) -> bytes:
        """Return all metrics in Prometheus's text format, summed over the workers."""
        with self._lock:
            if monotonic() >= self._expires:
                self._text = generate_latest(_registry())
                self._expires = monotonic() + SCRAPE_INTERVAL
            return self._text


def _registry() -> CollectorRegistry:
    if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
        return REGISTRY
    registry = CollectorRegistry()
    MultiProcessCollector(registry)
    return registry


exposition = Exposition()
