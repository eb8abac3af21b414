"""All items, or all that match, in one answer that streams."""

import csv
import io
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from typing import Annotated

import orjson
from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import StreamingResponse
from sqlalchemy.ext.asyncio import AsyncEngine

from service.access.scopes import takes_scope
from service.crud import item as crud
from service.database.engine import transactional
from service.domain.item import Item, ItemFilter
from service.errors import NotAcceptable, Unavailable
from service.http.openapi import operation_id, problems
from service.http.responses import json_bytes
from service.http.routing import StrictRoute
from service.http.streaming import Stream
from service.schemas.item_list import ItemExportQuery
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
# With one of these a spreadsheet takes a cell for a formula, and runs it.
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


class Exports:
    """The exports under way: each holds a connection, so they are few."""

    def __init__(self, engine: AsyncEngine, most: int) -> None:
        self._engine = transactional(engine)
        self._free = most

    async def write(
        self, wanted: ItemFilter, head: bytes, write_items: Callable[[Sequence[Item]], bytes]
    ) -> AsyncGenerator[bytes, None]:
        """The items that match, as bytes, batch by batch.

        Raises:
            Unavailable: as many exports as may are under way.
        """
        if not self._free:
            raise Unavailable("As many exports as may are under way; try again shortly")
        self._free -= 1
        try:
            async with self._engine.connect() as conn:
                async for batch in crud.export_items(conn, wanted):
                    yield head + write_items(batch)
                    head = b""
            if head:  # there was no item
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
    response_description="The items by id: a JSON object a line, or CSV with a head line",
    responses=problems(406, 422)
    | {200: {"content": {type_: {"schema": {"type": "string"}} for type_ in MEDIA_TYPES.values()}}},
    openapi_extra=takes_scope("items:read"),
)
async def export_items(request: Request, query: Annotated[ItemExportQuery, Query()]) -> Response:
    """Send all items that match, as they are at this moment."""
    form = query.format or _accepted_form(",".join(request.headers.getlist("accept")))
    head, write_items = (_csv([COLUMNS]), _write_csv) if form == "csv" else (b"", _write_ndjson)
    state = state_of(request)
    answer = Stream(
        state.exports.write(query.to_filter(), head, write_items),
        state.settings.request_timeout,
        MEDIA_TYPES[form],
        {
            "Content-Disposition": f'attachment; filename="items.{form}"',
            "Cache-Control": "private, no-cache",
            "Vary": "Accept, Authorization",
        },
    )
    return await answer.begin()


def _accepted_form(accept: str) -> str:
    """The form that the Accept header likes best; of two that it likes as well, the first.

    Raises:
        NotAcceptable: it names neither.
    """
    likings: dict[str, float] = {}
    for part in accept.lower().split(",") if accept.strip() else ["*/*"]:
        media_range, *parameters = (piece.strip() for piece in part.split(";"))
        quality = next((p[2:] for p in parameters if p.startswith("q=")), "1")
        try:
            likings[media_range] = float(quality)
        except ValueError:
            continue
    best, form = 0.0, None
    for name, media_type in MEDIA_TYPES.items():
        group = media_type.partition("/")[0] + "/*"
        liking = likings.get(media_type, likings.get(group, likings.get("*/*", 0.0)))
        if liking > best:
            best, form = liking, name
    if form is None:
        raise NotAcceptable(f"An export is {' or '.join(MEDIA_TYPES.values())}")
    return form


def _write_ndjson(items: Sequence[Item]) -> bytes:
    return b"".join(json_bytes(item, orjson.OPT_APPEND_NEWLINE) for item in items)


def _write_csv(items: Sequence[Item]) -> bytes:
    return _csv(
        (
            item.id,
            _harmless(item.name),
            _harmless(item.description or ""),
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


def _harmless(cell: str) -> str:
    return f"'{cell}" if cell.startswith(FORMULA_STARTS) else cell
