"""Commands that add items."""

import asyncio
import os
import signal
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from itertools import islice
from typing import Any, BinaryIO

import click
from pydantic import ValidationError
from sqlalchemy import text

from service.cli.database import database
from service.crud import item as crud
from service.database.engine import opened_engine, transactional
from service.http.json_body import NotJson, parse_json
from service.http.problem import MESSAGES
from service.schemas.item import ItemCreate
from service.settings import get_settings

BATCH = 10_000  # rows
MAX_FAULTS = 100  # lines of an import that are reported
ADJECTIVES = ("Amber", "Bright", "Compact", "Folding", "Heavy", "Quiet", "Round", "Solid", "Tall")
NOUNS = ("Bench", "Chair", "Clock", "Desk", "Kettle", "Lamp", "Mirror", "Rug", "Shelf", "Stool")


@click.command()
@click.option("--rows", type=click.IntRange(min=1), default=10_000, show_default=True)
def seed(rows: int) -> None:
    """Add demo items."""
    with database():
        asyncio.run(_seed(rows))


@click.command("import")
@click.argument("file", type=click.File("rb"))
def import_items(file: BinaryIO) -> None:
    """Add the items of FILE, one JSON object a line: all, or none if a line is invalid.

    FILE may be the NDJSON of GET /items/export; ids, versions and times are new. - is stdin.
    """
    with database():
        asyncio.run(_import(file))


async def _seed(rows: int) -> None:
    """Copy `rows` demo items into the database in one transaction."""
    async with opened_engine(get_settings()) as engine:
        with click.progressbar(length=rows, label="Seeding", file=sys.stderr) as bar:
            async with transactional(engine).begin() as conn:
                for start in range(0, rows, BATCH):
                    size = min(BATCH, rows - start)
                    await crud.copy_many(conn, (_demo_item(start + n) for n in range(size)))
                    bar.update(size)
        async with engine.connect() as conn:
            await conn.execute(text("VACUUM ANALYZE items"))


def _demo_item(number: int) -> dict[str, Any]:
    """Return the same item for the same number; neighbours look different."""
    mixed = number * 2_654_435_761 % 2**32  # Knuth's multiplicative hash
    adjective = ADJECTIVES[mixed % len(ADJECTIVES)]
    noun = NOUNS[mixed // 7 % len(NOUNS)]
    return {
        "name": f"{adjective} {noun} {number}",
        "description": f"A {adjective.lower()} {noun.lower()}" if mixed % 4 else None,
        "price": Decimal(mixed % 100_000) / 100 if mixed % 10 else None,
        "is_active": mixed % 20 != 0,
    }


async def _import(file: BinaryIO) -> None:
    """Copy the items of the file into the database in one transaction."""
    faults: list[str] = []
    count = 0
    size = os.fstat(file.fileno()).st_size  # 0 for a pipe
    lines = enumerate(file, 1)
    with click.progressbar(length=size or 1, label="Importing", file=sys.stderr) as bar:
        async with (
            opened_engine(get_settings()) as engine,
            transactional(engine).begin() as conn,
        ):
            # The writer of a pipe may be slow.
            await conn.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))
            while batch := _read_batch(lines):
                rows = list(_read_rows(batch, faults))
                if not faults:
                    await crud.copy_many(conn, rows)
                    count += len(rows)
                bar.update(sum(len(line) for _, line in batch))
            if faults:  # nothing is committed
                raise click.ClickException(_tell(faults))
    click.echo(f"Imported {count:,} items", err=True)


def _read_batch(lines: Iterator[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
    """Return the next lines; Ctrl-C interrupts waiting for them, as asyncio's handler cannot.

    Elsewhere asyncio's handler cancels the task: an exception of the default handler could
    rise in the driver's own code, and leave its connection waiting for ever.
    """
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return list(islice(lines, BATCH))
    finally:
        signal.signal(signal.SIGINT, handler)


def _read_rows(
    lines: Iterable[tuple[int, bytes]], faults: list[str]
) -> Iterator[Mapping[str, Any]]:
    """Yield the items of valid lines for crud; add the faults of the others to `faults`."""
    for number, line in lines:
        if not line.strip():
            continue
        try:
            yield ItemCreate.model_validate(parse_json(line)).to_domain().to_dict()
        except NotJson as exc:
            faults.append(f"line {number}: {exc}")
        except ValidationError as exc:
            for fault in exc.errors(include_url=False, include_input=False):
                where = "".join(f", {part}" for part in fault["loc"])
                why = MESSAGES.get(fault["type"], fault["msg"])
                faults.append(f"line {number}{where}: {why}")


def _tell(faults: Sequence[str]) -> str:
    more = len(faults) - MAX_FAULTS
    rest = [f"and {more} more"] if more > 0 else []
    return "\n".join(["Nothing was imported:", *faults[:MAX_FAULTS], *rest])
