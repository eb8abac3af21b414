"""API keys: how a key is made, and what is stored of it.

A key is long and random, so one round of SHA-256 protects it. Only the digest is stored.
"""

import hashlib
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field

SCOPES = (
    "items:read",
    "items:write",
    "items:delete",
)
PREFIX = "items_"  # so that secret scanners recognise a key

NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(slots=True, frozen=True)
class ApiKey:
    """The stored part of a key."""

    name: str
    digest: str = field(repr=False)
    scopes: frozenset[str]


def create_key(name: str, scopes: Sequence[str]) -> tuple[str, str]:
    """Return a new key and its entry for API_KEYS.

    Raises:
        ValueError: the name or a scope is malformed.
    """
    if not NAME.fullmatch(name):
        raise ValueError("A name has 1 to 64 letters, digits, underscores, dots and hyphens")
    key = PREFIX + secrets.token_urlsafe(32)
    entry = f"{name}:{digest_of(key)}:{','.join(scopes)}"
    parse_keys(entry)
    return key, entry


def parse_keys(value: str) -> tuple[ApiKey, ...]:
    """Parse API_KEYS: entries like `name:digest:items:read,items:write`, separated by spaces,
    semicolons or new lines.

    Raises:
        ValueError: there is no entry, as in a file left empty by mistake, or an entry is
            malformed; the message does not repeat it.
    """
    keys: list[ApiKey] = []
    for number, entry in enumerate(filter(None, re.split(r"[\s;]+", value)), 1):
        name, _, rest = entry.partition(":")
        digest, _, scopes = rest.partition(":")
        if not NAME.fullmatch(name) or not DIGEST.fullmatch(digest):
            raise ValueError(f"entry {number} must read name:digest:scope,scope")
        if not set(scopes.split(",")) <= set(SCOPES):
            raise ValueError(f"entry {number} must have scopes of {', '.join(SCOPES)}")
        keys.append(ApiKey(name, digest, frozenset(scopes.split(","))))
    if not keys:
        raise ValueError("must have at least one entry, or not be set")
    return tuple(keys)


def digest_of(key: str) -> str:
    """Return the digest that is stored in place of a key."""
    return hashlib.sha256(key.encode(errors="surrogateescape")).hexdigest()
