"""Commands that run the server."""

import asyncio
import os
import socket
import sys

import click
import uvicorn

from service.cli.budget import tell_connection_budget
from service.cli.database import database
from service.cli.schema import upgrade
from service.database.engine import PoolerRefused
from service.database.revision import ROOT
from service.observability.logs import configure_logging
from service.settings import get_settings


@click.command()
@click.option("--port", type=click.IntRange(1, 65535), help="The port to serve on [PORT, or 8000]")
def dev(port: int | None) -> None:
    """Serve for development: migrate, and reload when the code changes.

    Without DATABASE_URL it starts an embedded PostgreSQL with its data in .postgres.
    """
    os.environ.setdefault("LOG_FORMAT", "console")
    host, port = get_settings().host, port or get_settings().port
    _refuse_taken_port(host, port)
    with database():
        upgrade()
        click.echo(f"Serving on http://{host}:{port}, documented on http://{host}:{port}/docs")
        uvicorn.run(
            "service.main:create_app",
            factory=True,
            host=host,
            port=port,
            reload=True,
            reload_dirs=[str(ROOT / "service")],
            log_config=None,
            access_log=False,
            server_header=False,
        )


@click.command()
def serve() -> None:
    """Serve for production, with Gunicorn."""
    settings = get_settings()
    if settings.database_url is None:
        raise click.ClickException("DATABASE_URL is not set")
    _find_addresses(settings.host)
    configure_logging(settings)
    try:
        asyncio.run(tell_connection_budget(settings))
    except PoolerRefused as exc:
        raise click.ClickException(str(exc)) from None
    config = str(ROOT / "docker" / "gunicorn.conf.py")
    # Replaces this process, so that signals reach Gunicorn.
    os.execv(sys.executable, [sys.executable, "-m", "gunicorn", "--config", config])  # nosec B606


def _find_addresses(host: str) -> None:
    """Refuse a HOST that is no address of this machine, such as conda's, which is a platform."""
    try:
        socket.getaddrinfo(host, None, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError):
        raise click.ClickException(
            f"HOST: {host} is not an address to listen on; set HOST=127.0.0.1 or 0.0.0.0"
        ) from None


def _refuse_taken_port(host: str, port: int) -> None:
    _find_addresses(host)
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as exc:
            raise click.ClickException(f"{host}:{port} is unavailable: {exc.strerror}") from None
