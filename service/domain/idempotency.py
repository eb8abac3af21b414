"""The answer to a request that carried an Idempotency-Key."""

from dataclasses import dataclass


@dataclass(slots=True)
class StoredAnswer:
    """An answer, and the SHA-256 digest of the request that it belongs to."""

    fingerprint: bytes
    status: int
    headers: list[list[str]]  # name and value
    body: bytes
