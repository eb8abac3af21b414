"""Paging, whatever the list is of: cursors, and links to the pages around one (RFC 8288).

A cursor is the position of a page's last row: its sort key and its id, and a digest that ties them
to the list's order and filters. So the next page is a range of an index, however deep it lies, and
nothing that others insert or delete moves it.
"""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any, TypeVar
from urllib.parse import quote

import orjson
from fastapi import Request
from pydantic import TypeAdapter, ValidationError

from service.errors import InvalidInput

Position = TypeVar("Position")

DIGEST_SIZE = 8  # bytes; against mistakes, as a cursor gives access to nothing


def encode_cursor(list_: Any, position: Sequence[Any]) -> str:
    """The cursor to what follows `position` in the list that `list_` describes."""
    content = orjson.dumps(position, default=str)
    return urlsafe_b64encode(_digest(list_, content) + content).rstrip(b"=").decode()


def decode_cursor(cursor: str, list_: Any, type_: TypeAdapter[Position]) -> Position:
    """The position that `cursor` holds.

    Raises:
        InvalidInput: it is not a cursor, or is one of another list.
    """
    try:
        data = urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
        digest, content = data[:DIGEST_SIZE], data[DIGEST_SIZE:]
        if digest == _digest(list_, content):
            return type_.validate_json(content)
    except (ValueError, ValidationError):
        pass
    detail = "Not a cursor of this list; its sort and filters must stay the same"
    raise InvalidInput([{"parameter": "cursor", "detail": detail}])


def _digest(list_: Any, content: bytes) -> bytes:
    return blake2b(orjson.dumps(list_, default=str) + content, digest_size=DIGEST_SIZE).digest()


def page_links(
    request: Request, page: int, last: int | None, deepest: int, next_cursor: str | None
) -> str:
    """The Link header of a page by its number.

    Args:
        last: the number of the last page, if it is known.
        deepest: the last page that may be asked for by number.
        next_cursor: to what follows; None at the end.
    """
    links: dict[str, dict[str, Any]] = {"first": {"page": 1}}
    if page > 1:
        links["prev"] = {"page": min(page - 1, last or page)}
    if next_cursor:
        links["next"] = {"page": page + 1} if page < deepest else {"cursor": next_cursor}
    if last and last <= deepest:
        links["last"] = {"page": last}
    return _link_header(request, links)


def cursor_links(request: Request, next_cursor: str | None) -> str:
    """The Link header of a page by cursor."""
    links: dict[str, dict[str, Any]] = {"first": {}}
    if next_cursor:
        links["next"] = {"cursor": next_cursor}
    return _link_header(request, links)


def _link_header(request: Request, links: Mapping[str, Mapping[str, Any]]) -> str:
    """`links` by their relation, each with its place in the list; all else stays as it is."""
    query = request.scope["query_string"].decode("latin-1")
    kept = [part for part in query.split("&") if part and not part.startswith(("page=", "cursor="))]
    path = quote(request.scope["path"])
    return ", ".join(
        f"<{path}{_query([*kept, *(f'{name}={value}' for name, value in place.items())])}>"
        f'; rel="{relation}"'
        for relation, place in links.items()
    )


def _query(parts: Sequence[str]) -> str:
    # Encoded already, but for what no address may have.
    return (
        "?" + quote("&".join(parts), safe="!$&'()*+,;=:@/?%", encoding="latin-1") if parts else ""
    )
