"""All matching items in one streamed response."""

import csv
import io
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from typing import Annotated

import orjson
from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import StreamingResponse
from sqlalchemy.ext.asyncio import AsyncEngine

from service.access.limits import limiter, reads
from service.access.scopes import requires
from service.crud import item as crud
from service.database.engine import transactional
from service.domain.item import Item, ItemFilter
from service.errors import NotAcceptable, Unavailable
from service.http.openapi import operation_id, problems
from service.http.responses import json_bytes
from service.http.routing import StrictRoute
from service.http.streaming import Stream
from service.schemas.item import ItemExportQuery
from service.state import state_of

MEDIA_TYPES = {"ndjson": "application/x-ndjson", "csv": "text/csv"}
COLUMNS = (
    "id",
    "name",
    "description",
    "price",
    "is_active",
    "version",
    "created_at",
    "updated_at",
)
# A spreadsheet evaluates a cell that starts with one of these as a formula (CSV injection).
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


class Exports:
    """The exports in progress; each holds a connection, so their number is bounded."""

    def __init__(self, engine: AsyncEngine, most: int) -> None:
        self._engine = transactional(engine)
        self._free = most

    async def write(
        self, wanted: ItemFilter, head: bytes, write_items: Callable[[Sequence[Item]], bytes]
    ) -> AsyncGenerator[bytes, None]:
        """Yield the matching items as bytes, batch by batch.

        Raises:
            Unavailable: the maximum number of exports is in progress.
        """
        if not self._free:
            raise Unavailable("The maximum number of exports is in progress; try again shortly")
        self._free -= 1
        try:
            async with self._engine.connect() as conn:
                async for batch in crud.export_items(conn, wanted):
                    yield head + write_items(batch)
                    head = b""
            if head:  # no item matched
                yield head
        finally:
            self._free += 1


router = APIRouter(
    prefix="/items",
    tags=["items"],
    route_class=StrictRoute,
    generate_unique_id_function=operation_id,
)


@router.get(
    "/export",
    summary="Export items",
    response_class=StreamingResponse,
    response_description="The items by id: one JSON object a line, or CSV with a header line",
    responses=problems(406, 422)
    | {200: {"content": {type_: {"schema": {"type": "string"}} for type_ in MEDIA_TYPES.values()}}},
    dependencies=[requires("items:read")],
)
@limiter.shared_limit(reads, scope="read")
async def export_items(request: Request, query: Annotated[ItemExportQuery, Query()]) -> Response:
    """Send all matching items in one consistent snapshot."""
    format_ = query.format or _accepted_format(",".join(request.headers.getlist("accept")))
    head, write_items = (_csv([COLUMNS]), _write_csv) if format_ == "csv" else (b"", _write_ndjson)
    state = state_of(request)
    answer = Stream(
        state.exports.write(query.to_filter(), head, write_items),
        state.settings.request_timeout,
        MEDIA_TYPES[format_],
        {
            "Content-Disposition": f'attachment; filename="items.{format_}"',
            "Cache-Control": "private, no-cache",
            "Vary": "Accept, Authorization",
        },
    )
    return await answer.begin()


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


def _write_ndjson(items: Sequence[Item]) -> bytes:
    return b"".join(json_bytes(item, orjson.OPT_APPEND_NEWLINE) for item in items)


def _write_csv(items: Sequence[Item]) -> bytes:
    return _csv(
        (
            item.id,
            _escape_formula(item.name),
            _escape_formula(item.description or ""),
            item.price,
            str(item.is_active).lower(),
            item.version,
            item.created_at.isoformat(),
            item.updated_at.isoformat(),
        )
        for item in items
    )


def _csv(rows: Iterable[Sequence[object]]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue().encode()


def _escape_formula(cell: str) -> str:
    return f"'{cell}" if cell.startswith(FORMULA_STARTS) else cell
