"""Paging for lists of any kind: cursors, and links to neighbouring pages (RFC 8288).

A cursor is the position of a page's last row, its sort key and id, with a checksum over the list's
order and filters. The next page is a range of an index at any depth, and concurrent inserts and
deletes do not move it (keyset pagination).
"""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Any
from urllib.parse import quote, unquote
from zlib import crc32

import orjson
from fastapi import Request, Response
from pydantic import TypeAdapter, ValidationError

from service.domain.listing import Page, Position, Query
from service.errors import InvalidInput
from service.http.responses import address, json_response

CHECKSUM_SIZE = 4  # bytes; it guards against mistakes, as a cursor grants no access
PLACES = ("page", "cursor")  # the parameters that name a page
SAFE = "!$&'()*+,;=:@/?%"  # characters allowed in a query


def encode_cursor(query: Query[Any], position: Position) -> str:
    """Return the cursor for the rows after `position` in the list of `query`."""
    content = orjson.dumps(position, default=str)
    return _text(_checksum(query, content) + content)


def decode_cursor(cursor: str, query: Query[Any], type_: TypeAdapter[Position]) -> Position:
    """Return the position in `cursor`.

    Raises:
        InvalidInput: it is not a cursor, or belongs to another list.
    """
    try:
        data = urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
        checksum, content = data[:CHECKSUM_SIZE], data[CHECKSUM_SIZE:]
        # base64 decoding is lenient; only our own spelling is accepted.
        if checksum == _checksum(query, content) and cursor == _text(data):
            return type_.validate_json(content)
    except (ValueError, ValidationError):
        pass
    detail = "Not a cursor of this list; its sort and filters must not change"
    raise InvalidInput([{"parameter": "cursor", "detail": detail}])


def _text(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()


def _checksum(query: Query[Any], content: bytes) -> bytes:
    order = orjson.dumps((query.sort, query.filter), default=str)
    return crc32(content, crc32(order)).to_bytes(CHECKSUM_SIZE)


def page_response(
    request: Request, query: Query[Any], page: Page[Any], deepest_page: int
) -> Response:
    """Return a page of a list, with links to those around it.

    Args:
        deepest_page: the largest page number that is allowed.
    """
    next_cursor = encode_cursor(query, query.position(page.items[-1])) if page.has_more else None
    pages = None if page.total is None else -(-page.total // query.per_page)
    if query.after:
        links = cursor_links(request, next_cursor)
    else:
        last = None if page.total_capped else pages
        links = page_links(request, query.page, last, deepest_page, next_cursor)
    return json_response(
        {
            "items": page.items,
            "page": None if query.after else query.page,
            "per_page": query.per_page,
            "total": page.total,
            "total_relation": page.total_relation,
            "pages": pages,
            "next_cursor": next_cursor,
        },
        headers=[(b"link", links.encode())],
    )


def page_links(
    request: Request, page: int, last: int | None, deepest: int, next_cursor: str | None
) -> str:
    """Return the Link header of a numbered page.

    Args:
        last: number of the last page, if known.
        deepest: the largest page number that is allowed.
        next_cursor: the cursor of the next page; None at the end.
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
    """Return the Link header of a cursor page."""
    start, join = _list_address(request)
    links = [f'<{start}>; rel="first"']
    if next_cursor:
        links.append(f'<{start}{join}cursor={next_cursor}>; rel="next"')
    return ", ".join(links)


def _list_address(request: Request) -> tuple[str, str]:
    """Return the request's address without its page, and the separator for a page parameter."""
    query = request.scope["query_string"].decode("latin-1")
    kept = "&".join([part for part in query.split("&") if part and not _is_place(part)])
    path = address(request)
    # Encoded characters stay encoded; those that no address may have, such as ">", get encoded.
    return (f"{path}?{quote(kept, SAFE, 'latin-1')}", "&") if kept else (path, "?")


def _is_place(part: str) -> bool:
    name = part.partition("=")[0]
    return name in PLACES or ("%" in name and unquote(name) in PLACES)
