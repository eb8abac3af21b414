"""The stored response to a request with an Idempotency-Key."""

from dataclasses import dataclass


@dataclass(slots=True)
class StoredAnswer:
    """A response, and the SHA-256 digest of its request."""

    fingerprint: bytes
    status: int
    headers: list[list[str]]  # name and value
    body: bytes
