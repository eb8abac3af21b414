"""Conditional requests (RFC 9110, section 13): an entity tag is a version in quotes.

Tags are strong, as the version grows with every change.
"""

import re
from typing import Protocol

from fastapi import Request

from service.errors import BadRequest, PreconditionFailed, PreconditionRequired
from service.state import state_of

TAG = re.compile(r'[ \t,]*(W/)?"([\x21\x23-\x7e\x80-\xff]*)"[ \t]*(?=,|$)')
VERSION = re.compile(r"[1-9][0-9]{0,18}")


class Versioned(Protocol):
    """Anything with a version that grows with each change."""

    version: int


def entity_tag(version: int) -> str:
    """Return the entity tag of a version."""
    return f'"{version}"'


def is_unmodified(request: Request, version: int) -> bool:
    """Return whether If-None-Match contains this version.

    The comparison is weak, as RFC 9110 requires. A malformed field matches nothing.
    """
    if (field := _field(request, b"if-none-match")) is None:
        return False
    return field == "*" or str(version) in [opaque for _, opaque in _tags(field) or []]


async def expected_versions(request: Request) -> list[int] | None:
    """Return the versions in If-Match; None if any version is accepted.

    Weak tags match nothing, as RFC 9110 requires a strong comparison.

    Raises:
        BadRequest: the field is not a list of tags.
        PreconditionRequired: the field is missing, and REQUIRE_IF_MATCH is set.
    """
    if (field := _field(request, b"if-match")) is None:
        if state_of(request).settings.require_if_match:
            raise PreconditionRequired
        return None
    if field == "*":
        return None
    if (tags := _tags(field)) is None:
        raise BadRequest('If-Match should be "*" or a list of ETags, each in double quotes')
    named = [opaque for is_weak, opaque in tags if not is_weak and VERSION.fullmatch(opaque)]
    return [version for version in map(int, named) if version < 2**63]


def check_version(found: Versioned | None, expected: list[int] | None) -> None:
    """Raise PreconditionFailed if `found` exists with a version that is not expected."""
    if found and expected is not None and found.version not in expected:
        raise PreconditionFailed


def _field(request: Request, name: bytes) -> str | None:
    """Return a header, its lines joined; None if missing. `Request.headers` is slower."""
    lines = [value.decode("latin-1") for key, value in request.scope["headers"] if key == name]
    return ", ".join(lines).strip() if lines else None


def _tags(field: str) -> list[tuple[bool, str]] | None:
    """Return whether each tag is weak, and its text; None if `field` is not a list of tags."""
    tags, field = [], field.rstrip(" \t,")
    position = 0
    while match := TAG.match(field, position):
        tags.append((match[1] is not None, match[2]))
        position = match.end()
    return tags if tags and position == len(field) else None
