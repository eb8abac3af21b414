"""Commands that run the server."""

import asyncio
import os
import socket
import sys

import click
import uvicorn
from alembic import command
from alembic.config import Config

from service.cli.budget import tell_connection_budget
from service.cli.database import database
from service.database.revision import ALEMBIC_INI, ROOT
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
        command.upgrade(Config(ALEMBIC_INI), "head")
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
    configure_logging(settings)
    asyncio.run(tell_connection_budget(settings))
    config = str(ROOT / "docker" / "gunicorn.conf.py")
    # Replaces this process, so that signals reach Gunicorn.
    os.execv(sys.executable, [sys.executable, "-m", "gunicorn", "--config", config])  # nosec B606


def _refuse_taken_port(host: str, port: int) -> None:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as exc:
            raise click.ClickException(f"{host}:{port} is unavailable: {exc.strerror}") from None
