"""Gunicorn's configuration: all that varies is a setting of the service."""

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from service.log import logging_config
from service.settings import get_settings

settings = get_settings()

wsgi_app = "service.main:create_app()"
host = f"[{settings.host}]" if ":" in settings.host else settings.host
bind = f"{host}:{settings.port}"
workers = settings.web_concurrency
worker_class = "service.worker.Worker"
forwarded_allow_ips = settings.forwarded_allow_ips

# Threads of libuv's in which names are looked up: more than there are lookups that hang, of a
# database that is gone, before the one that finds it back.
os.environ.setdefault("UV_THREADPOOL_SIZE", "16")
backlog = 2048
keepalive = 75  # seconds; longer than a proxy keeps its connections, so that it closes them first
timeout = 30  # seconds; a worker whose event loop stands still that long is replaced
reload = settings.debug
graceful_timeout = 15  # seconds that requests in flight get when a worker ends

# The heartbeat, in memory: on a disk it may block.
worker_tmp_dir = "/dev/shm" if Path("/dev/shm").is_dir() else None  # nosec B108
control_socket_disable = True

# Where the workers keep what they count, for /metrics to sum up. In memory, too, where it can be.
metrics_dir = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
made_dir = None
if settings.metrics_enabled and not metrics_dir:
    metrics_dir = made_dir = tempfile.mkdtemp(prefix="items-metrics-", dir=worker_tmp_dir)
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = metrics_dir
logconfig_dict = logging_config(settings)


def when_ready(server: Any) -> None:
    """Say what only an operator can decide."""
    if not settings.api_keys:
        server.log.warning("Everyone may do everything: API_KEYS is not set")


def child_exit(server: Any, worker: Any) -> None:
    """Forget what a worker that is gone had in use; what it counted stays."""
    if metrics_dir:
        # Not before PROMETHEUS_MULTIPROC_DIR is set, which prometheus_client looks for.
        from prometheus_client.multiprocess import mark_process_dead

        from service.metric_files import join_dead

        try:
            mark_process_dead(worker.pid)
            join_dead(Path(metrics_dir))
        except Exception:  # would end the service
            server.log.exception("Metrics of a worker that ended are left as they are")


def on_exit(server: Any) -> None:
    """Leave nothing behind."""
    if made_dir:
        shutil.rmtree(made_dir, ignore_errors=True)
