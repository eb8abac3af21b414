"""Gunicorn's configuration. Users configure the service by its settings (service/settings.py)."""

import os
from pathlib import Path
from typing import Any

from service.database.revision import load_revisions
from service.observability.logs import logging_config
from service.observability.metric_files import forget_dead_gauges, make_folder, memory_folder
from service.settings import get_settings

settings = get_settings()

wsgi_app = "service.main:create_app()"
host = f"[{settings.host}]" if ":" in settings.host else settings.host
bind = f"{host}:{settings.port}"
workers = settings.web_concurrency
worker_class = "service.server.worker.Worker"
forwarded_allow_ips = settings.forwarded_allow_ips

# Threads for DNS lookups: looking up a database that vanished may block for many seconds.
os.environ.setdefault("UV_THREADPOOL_SIZE", "16")
backlog = 2048
keepalive = 75  # seconds; above the proxy's, so that the proxy closes idle connections first
timeout = 30  # seconds; a worker whose event loop is blocked for longer is replaced
reload = settings.debug
graceful_timeout = 15  # seconds for requests in flight when a worker ends

load_revisions()  # before the fork, so that the workers share the result and Alembic's memory

# The workers' heartbeat files are in memory, because writing to a disk may block.
worker_tmp_dir = str(memory_folder())
control_socket_disable = True

# The workers' metric files, in memory where possible; /metrics returns their sum.
metrics_dir = None
if settings.metrics_enabled:
    metrics_dir = os.environ.get("PROMETHEUS_MULTIPROC_DIR") or str(make_folder())
logconfig_dict = logging_config(settings)


def when_ready(server: Any) -> None:
    """Warn if the service is open to every client."""
    if not settings.api_keys:
        server.log.warning("API_KEYS is not set: every client may read and write")


def on_starting(server: Any) -> None:
    """Delete the gauges that killed workers left in a folder of the user's."""
    _forget_dead_gauges(server)


def post_fork(server: Any, worker: Any) -> None:
    """Tell prometheus_client, which a worker imports after this, where to count.

    Not in the master: its successor after SIGUSR2 inherits its environment.
    """
    if metrics_dir:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = metrics_dir


def child_exit(server: Any, worker: Any) -> None:
    """Delete the gauges of a worker that ended, and keep its counters."""
    _forget_dead_gauges(server)


def _forget_dead_gauges(server: Any) -> None:
    if metrics_dir:
        try:
            forget_dead_gauges(Path(metrics_dir))
        except Exception:  # an error here would end Gunicorn
            server.log.exception("The gauges of a worker that ended stay")
