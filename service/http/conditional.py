"""Conditional requests (RFC 9110, section 13): an entity tag is a version in quotes.

Tags are strong: a version is stepped with every change, whatever it changes.
"""

import re
from typing import Protocol

from fastapi import Request

from service.errors import BadRequest, PreconditionFailed, PreconditionRequired
from service.state import state_of

TAG = re.compile(r'[ \t,]*(W/)?"([\x21\x23-\x7e\x80-\xff]*)"[ \t]*(?=,|$)')
VERSION = re.compile(r"[1-9][0-9]{0,18}")


class Versioned(Protocol):
    """What has a version, stepped with each change."""

    version: int


def entity_tag(version: int) -> str:
    """The tag of what has this version."""
    return f'"{version}"'


def is_unmodified(request: Request, version: int) -> bool:
    """Whether If-None-Match says that the client has this version already.

    Tags are compared weakly, as the standard has it here. A field that is not a list of tags
    matches nothing.
    """
    if (field := _field(request, b"if-none-match")) is None:
        return False
    return field == "*" or str(version) in [opaque for _, opaque in _tags(field) or []]


def expected_versions(request: Request) -> list[int] | None:
    """The versions that If-Match names; None if any will do.

    A weak tag names none, as tags are compared strongly here.

    Raises:
        BadRequest: the field is not a list of tags.
        PreconditionRequired: there is no such field, and REQUIRE_IF_MATCH is set.
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
    """Raise PreconditionFailed if there is something, and of a version that will not do."""
    if found and expected is not None and found.version not in expected:
        raise PreconditionFailed


def _field(request: Request, name: bytes) -> str | None:
    """The header, its lines joined; None if it is not there. `Request.headers` costs far more."""
    lines = [value.decode("latin-1") for key, value in request.scope["headers"] if key == name]
    return ", ".join(lines).strip() if lines else None


def _tags(field: str) -> list[tuple[bool, str]] | None:
    """Each tag of the list, and whether it is weak; None if it is not a list of tags."""
    tags, field = [], field.rstrip(" \t,")
    position = 0
    while match := TAG.match(field, position):
        tags.append((match[1] is not None, match[2]))
        position = match.end()
    return tags if tags and position == len(field) else None
