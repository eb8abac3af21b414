"""Paging, whatever the list is of: cursors, and links to the pages around one (RFC 8288).

A cursor is the position of a page's last row: its sort key and its id, and a checksum that ties
them to the list's order and filters. So the next page is a range of an index, however deep it lies,
and nothing that others insert or delete moves it.
"""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from typing import Any, TypeVar
from urllib.parse import quote, unquote
from zlib import crc32

import orjson
from fastapi import Request
from pydantic import TypeAdapter, ValidationError

from service.errors import InvalidInput

Position = TypeVar("Position")

CHECKSUM_SIZE = 4  # bytes; against mistakes only, as a cursor gives access to nothing
PLACES = ("page", "cursor")  # the parameters that say where in the list a page is
SAFE = "!$&'()*+,;=:@/?%"  # in a query


def encode_cursor(list_: Any, position: Sequence[Any]) -> str:
    """The cursor to what follows `position` in the list that `list_` describes."""
    content = orjson.dumps(position, default=str)
    return _text(_checksum(list_, content) + content)


def decode_cursor(cursor: str, list_: Any, type_: TypeAdapter[Position]) -> Position:
    """The position that `cursor` holds.

    Raises:
        InvalidInput: it is not a cursor, or is one of another list.
    """
    try:
        data = urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
        checksum, content = data[:CHECKSUM_SIZE], data[CHECKSUM_SIZE:]
        # In the one spelling that it was given in: base64 is read generously.
        if checksum == _checksum(list_, content) and cursor == _text(data):
            return type_.validate_json(content)
    except (ValueError, ValidationError):
        pass
    detail = "Not a cursor of this list; its sort and filters must stay the same"
    raise InvalidInput([{"parameter": "cursor", "detail": detail}])


def _text(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()


def _checksum(list_: Any, content: bytes) -> bytes:
    return crc32(content, crc32(orjson.dumps(list_, default=str))).to_bytes(CHECKSUM_SIZE)


def page_links(
    request: Request, page: int, last: int | None, deepest: int, next_cursor: str | None
) -> str:
    """The Link header of a page by its number.

    Args:
        last: the number of the last page, if it is known.
        deepest: the last page that may be asked for by number.
        next_cursor: to what follows; None at the end.
    """
    start, join = _list_address(request)
    links = [f'<{start}{join}page=1>; rel="first"']
    if page > 1:
        prev = page - 1 if last is None else max(1, min(page - 1, last))
        links.append(f'<{start}{join}page={prev}>; rel="prev"')
    if next_cursor:
        place = f"page={page + 1}" if page < deepest else f"cursor={next_cursor}"
        links.append(f'<{start}{join}{place}>; rel="next"')
    if last and last <= deepest:
        links.append(f'<{start}{join}page={last}>; rel="last"')
    return ", ".join(links)


def cursor_links(request: Request, next_cursor: str | None) -> str:
    """The Link header of a page by cursor."""
    start, join = _list_address(request)
    links = [f'<{start}>; rel="first"']
    if next_cursor:
        links.append(f'<{start}{join}cursor={next_cursor}>; rel="next"')
    return ", ".join(links)


def _list_address(request: Request) -> tuple[str, str]:
    """The address of the request without its place in the list, and what joins a place to it."""
    query = request.scope["query_string"].decode("latin-1")
    kept = "&".join([part for part in query.split("&") if part and not _is_place(part)])
    path = quote(request.scope["path"])
    # What was encoded stays so; what no address may have, such as ">", is encoded.
    return (f"{path}?{quote(kept, SAFE, 'latin-1')}", "&") if kept else (path, "?")


def _is_place(part: str) -> bool:
    name = part.partition("=")[0]
    return name in PLACES or ("%" in name and unquote(name) in PLACES)
