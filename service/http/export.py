"""All matching rows of a resource in one streamed response, as NDJSON or CSV."""

import csv
import io
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Sequence
from contextlib import aclosing
from dataclasses import fields
from datetime import datetime
from operator import attrgetter
from typing import Any

import orjson
from fastapi import Request, Response
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from service.database.engine import transactional
from service.database.faults import FAULTS, is_undone
from service.errors import NotAcceptable, Unavailable
from service.http.responses import json_bytes
from service.http.streaming import Stream
from service.state import state_of

Rows = Callable[[AsyncConnection], AsyncIterator[Sequence[Any]]]

MEDIA_TYPES = {"ndjson": "application/x-ndjson", "csv": "text/csv"}
# For the OpenAPI document.
EXPORTED: dict[int | str, dict[str, Any]] = {
    200: {"content": {type_: {"schema": {"type": "string"}} for type_ in MEDIA_TYPES.values()}}
}
# A spreadsheet evaluates a cell that starts with one of these as a formula (CSV injection).
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


class Exports:
    """The exports in progress; each holds a connection, so their number is bounded."""

    def __init__(self, engine: AsyncEngine, most: int) -> None:
        self._engine = transactional(engine)
        self._free = most

    async def write(
        self, rows: Rows, head: bytes, write: Callable[[Sequence[Any]], bytes]
    ) -> AsyncGenerator[bytes, None]:
        """Yield the rows as bytes, batch by batch, after `head`.

        Raises:
            Unavailable: the maximum number of exports is in progress.
        """
        if not self._free:
            raise Unavailable("The maximum number of exports is in progress; try again shortly")
        self._free -= 1
        try:
            # Closed with this generator, and its connection with it.
            async with aclosing(self._batches(rows)) as batches:
                async for batch in batches:
                    yield head + write(batch)
                    head = b""
            if head:  # no row matched
                yield head
        finally:
            self._free += 1

    async def _batches(self, rows: Rows) -> AsyncGenerator[Sequence[Any], None]:
        """Yield the batches; begin once more if the database did nothing at first."""
        for is_last in (False, True):
            begun = False
            try:
                async with self._engine.connect() as conn:
                    async for batch in rows(conn):
                        begun = True
                        yield batch
                return
            except FAULTS as fault:
                if begun or is_last or not is_undone(fault):
                    raise


async def export(
    request: Request, name: str, row: type[Any], format_: str | None, rows: Rows
) -> Response:
    """Return the response with all rows, once the first of them is known.

    Args:
        name: of the file.
        row: the dataclass of a row, whose fields are the columns of CSV.
        format_: "ndjson" or "csv"; None is the one that Accept prefers.
        rows: yields batches of rows from a connection in a transaction.

    Raises:
        NotAcceptable: no format is given, and Accept names neither.
        Unavailable: the maximum number of exports is in progress.
    """
    format_ = format_ or _accepted_format(",".join(request.headers.getlist("accept")))
    head, write = _csv_writer(row) if format_ == "csv" else (b"", _write_ndjson)
    state = state_of(request)
    stream = Stream(
        state.exports.write(rows, head, write),
        state.settings.request_timeout,
        state.settings.export_timeout,
        MEDIA_TYPES[format_],
        {
            "Content-Disposition": f'attachment; filename="{name}.{format_}"',
            "Cache-Control": "private, no-cache",
            "Vary": "Accept, Authorization",
        },
    )
    return await stream.begin()


def _accepted_format(accept: str) -> str:
    """Return the format that Accept prefers; of two with equal quality, the first.

    Raises:
        NotAcceptable: it accepts neither.
    """
    qualities: dict[str, float] = {}
    for part in accept.lower().split(",") if accept.strip() else ["*/*"]:
        media_range, *parameters = (piece.strip() for piece in part.split(";"))
        q = next((p[2:] for p in parameters if p.startswith("q=")), "1")
        try:
            qualities[media_range] = float(q)
        except ValueError:
            continue
    best, format_ = 0.0, None
    for name, media_type in MEDIA_TYPES.items():
        group = media_type.partition("/")[0] + "/*"
        quality = qualities.get(media_type, qualities.get(group, qualities.get("*/*", 0.0)))
        if quality > best:
            best, format_ = quality, name
    if format_ is None:
        raise NotAcceptable(f"An export is {' or '.join(MEDIA_TYPES.values())}")
    return format_


def _write_ndjson(rows: Sequence[Any]) -> bytes:
    return b"".join([json_bytes(row, orjson.OPT_APPEND_NEWLINE) for row in rows])


def _csv_writer(row: type[Any]) -> tuple[bytes, Callable[[Sequence[Any]], bytes]]:
    """Return the header line, and a function that returns the lines of rows."""
    names = [field.name for field in fields(row)]
    values = attrgetter(*names)

    def write(rows: Sequence[Any]) -> bytes:
        return _csv([map(_cell, values(row)) for row in rows])

    return _csv([names]), write


def _csv(rows: Iterable[Iterable[object]]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue().encode()


def _cell(value: Any) -> Any:
    if isinstance(value, str):
        return f"'{value}" if value.startswith(FORMULA_STARTS) else value
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, datetime):  # as in JSON
        return value.isoformat().replace("+00:00", "Z")
    return value
