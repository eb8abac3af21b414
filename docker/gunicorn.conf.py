"""Gunicorn's configuration: all that varies is a setting of the service."""

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

backlog = 2048
keepalive = 75  # seconds; longer than a proxy keeps its connections, so that it closes them first
timeout = 30  # seconds; a worker whose event loop stands still that long is replaced
reload = settings.debug
graceful_timeout = 15  # seconds that requests in flight get when a worker ends

# The heartbeat, in memory: on a disk it may block.
worker_tmp_dir = "/dev/shm" if Path("/dev/shm").is_dir() else None  # nosec B108
control_socket_disable = True
logconfig_dict = logging_config(settings)


def when_ready(server: Any) -> None:
    """Say what only an operator can decide."""
    if not settings.api_keys:
        server.log.warning("Everyone may do everything: API_KEYS is not set")
