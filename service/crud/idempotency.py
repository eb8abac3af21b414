"""Idempotency keys and their stored responses."""

from datetime import timedelta
from hashlib import blake2b

from sqlalchemy import BigInteger, bindparam, func, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from service.domain.idempotency import StoredAnswer
from service.models.idempotency import idempotency_keys as keys

TRY_LOCK = select(func.pg_try_advisory_xact_lock(bindparam("number", type_=BigInteger)))

# By ctid, so that only the index on the time is read. A key that a request is renewing is skipped.
PURGE = text(
    """
    DELETE FROM idempotency_keys WHERE ctid = ANY (ARRAY (
        SELECT ctid FROM idempotency_keys WHERE expires_at <= now()
        LIMIT :most FOR UPDATE SKIP LOCKED
    ))
    """
)


async def try_lock(session: AsyncSession, owner: str, key: str) -> bool:
    """Lock the key until the transaction ends; return False if another transaction holds it."""
    # PostgreSQL locks numbers. Two keys with the same number would only wait for each other.
    number = blake2b(f"{owner}\0{key}".encode(), digest_size=8).digest()
    locked = await session.scalar(TRY_LOCK, {"number": int.from_bytes(number, signed=True)})
    return bool(locked)


async def find_answer(session: AsyncSession, owner: str, key: str) -> StoredAnswer | None:
    """Return the response stored with the key, unless it has expired."""
    columns = (keys.c.fingerprint, keys.c.status, keys.c.headers, keys.c.body)
    statement = select(*columns).where(
        keys.c.owner == owner, keys.c.key == key, keys.c.expires_at > func.now()
    )
    row = (await session.execute(statement)).one_or_none()
    return StoredAnswer(*row) if row else None


async def store_answer(
    session: AsyncSession, owner: str, key: str, answer: StoredAnswer, ttl: int
) -> None:
    """Store the response for `ttl` seconds, in the place of an expired one."""
    values = {
        "fingerprint": answer.fingerprint,
        "status": answer.status,
        "headers": answer.headers,
        "body": answer.body,
        "expires_at": func.now() + timedelta(seconds=ttl),
    }
    await session.execute(
        insert(keys)
        .values(owner=owner, key=key, **values)
        .on_conflict_do_update(index_elements=[keys.c.owner, keys.c.key], set_=values)
    )


async def purge_expired(conn: AsyncConnection, most: int) -> int:
    """Delete at most `most` expired keys; return their number."""
    deleted = await conn.execute(PURGE, {"most": most})
    return deleted.rowcount
