"""`items purge`."""

import asyncio

import click
from sqlalchemy import text

from service.cli.database import database
from service.crud import idempotency
from service.database.engine import opened_engine
from service.settings import get_settings

BATCH = 1000  # rows


@click.command()
def purge() -> None:
    """Delete expired idempotency keys in batches."""
    with database():
        asyncio.run(_purge())


async def _purge() -> None:
    total = 0
    async with opened_engine(get_settings()) as engine, engine.connect() as conn:
        # Stored responses may be large: a batch may take longer than a request.
        await conn.execute(text("SET statement_timeout = 0"))
        while deleted := await idempotency.purge_expired(conn, BATCH):
            total += deleted
    click.echo(f"Deleted {total} expired idempotency keys")
