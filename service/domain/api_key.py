"""API keys: how one is made, and what is stored of it.

A key is random and long, so one round of SHA-256 hides it; only that digest is ever stored.
"""

import hashlib
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field

SCOPES = ("items:read", "items:write", "items:delete")
PREFIX = "items_"  # of every key, so that scanners of secrets can know one

NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(slots=True, frozen=True)
class ApiKey:
    """What is stored of a key."""

    name: str
    digest: str = field(repr=False)
    scopes: frozenset[str]


def create_key(name: str, scopes: Sequence[str]) -> tuple[str, str]:
    """A new key, and its entry in API_KEYS.

    Raises:
        ValueError: the name or a scope is not well formed.
    """
    if not NAME.fullmatch(name):
        raise ValueError("A name has 1 to 64 letters, digits, underscores, dots and hyphens")
    key = PREFIX + secrets.token_urlsafe(32)
    entry = f"{name}:{digest_of(key)}:{','.join(scopes)}"
    parse_keys(entry)
    return key, entry


def parse_keys(value: str) -> tuple[ApiKey, ...]:
    """The keys of API_KEYS: entries like `name:digest:items:read,items:write`, apart by spaces,
    semicolons or new lines.

    Raises:
        ValueError: there is no entry, as in a file left empty by mistake; or one is not well
            formed, which the message does not repeat.
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
    """What is stored in place of a key."""
    return hashlib.sha256(key.encode(errors="surrogateescape")).hexdigest()
