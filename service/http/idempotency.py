"""Idempotency-Key (IETF draft 07): a repeated request gets the first response again.

The key, a fingerprint of the request and the response are stored in the transaction of the request
itself, so that all of it happens or nothing. Only successes are stored; a request that failed may
be sent again with the same key.
"""

import asyncio
import hashlib
import re
from collections.abc import Awaitable, Callable
from typing import Any

import orjson
from fastapi import Request, Response
from sqlalchemy.ext.asyncio import AsyncSession

from service.access.scopes import client_name
from service.crud import idempotency as crud
from service.domain.idempotency import StoredAnswer
from service.errors import BadRequest, InProgress, KeyReused
from service.state import state_of

MAX_KEY_LENGTH = 255  # characters
LOCK_TRIES, LOCK_PAUSE = 5, 0.05  # seconds between two tries
QUOTED = re.compile(r'"((?:[\x20\x21\x23-\x5b\x5d-\x7e]|\\["\\])*)"')
UNQUOTED = re.compile(r"[\x21\x23-\x7e][\x20-\x7e]*")


async def idempotency_key(request: Request) -> str | None:
    """Return the request's key without quotes; None if it has none.

    Raises:
        BadRequest: the key is empty, too long, or not printable ASCII.
    """
    lines = [value for name, value in request.scope["headers"] if name == b"idempotency-key"]
    if not lines:
        return None
    line = lines[0].decode("latin-1").strip(" \t")
    if quoted := QUOTED.fullmatch(line):
        key = re.sub(r"\\(.)", r"\1", quoted[1])
    else:
        key = line if UNQUOTED.fullmatch(line) else ""
    if not key or len(key) > MAX_KEY_LENGTH or len(lines) > 1:
        raise BadRequest("Idempotency-Key should be one key of 1 to 255 printable characters")
    return key


async def once(
    request: Request, key: str, content: Any, act: Callable[[AsyncSession], Awaitable[Response]]
) -> Response:
    """Return the response of `act`, or the stored response of the first request with this key.

    Args:
        content: of the request; a repeated request must have the same.
        act: does the work within the session's transaction, and nothing else; it may run twice.

    Raises:
        InProgress: the first request with this key is in progress.
        KeyReused: the first request with this key was a different one.
    """
    state = state_of(request)
    owner = client_name(request) or ""
    asked = orjson.dumps([request.method, request.scope["path"], content], default=str)
    fingerprint = hashlib.sha256(asked).digest()

    async def act_once(session: AsyncSession) -> Response:
        if not await _locks(session, owner, key):
            raise InProgress
        if stored := await crud.find_answer(session, owner, key):
            if stored.fingerprint != fingerprint:
                raise KeyReused
            return _replay(stored)
        response = await act(session)
        headers = [[name.decode(), value.decode()] for name, value in response.raw_headers]
        answer = StoredAnswer(fingerprint, response.status_code, headers, bytes(response.body))
        ttl = state.settings.idempotency_ttl
        await crud.store_answer(session, owner, key, answer, ttl)
        return response

    return await state.sessions.transaction(act_once)


async def _locks(session: AsyncSession, owner: str, key: str) -> bool:
    """Lock the key. PostgreSQL frees the lock of a killed worker after a moment."""
    for _ in range(LOCK_TRIES):
        if await crud.try_lock(session, owner, key):
            return True
        await asyncio.sleep(LOCK_PAUSE)
    return False


def _replay(stored: StoredAnswer) -> Response:
    response = Response(stored.body, stored.status)
    response.raw_headers = [(name.encode(), value.encode()) for name, value in stored.headers]
    response.raw_headers.append((b"idempotency-replayed", b"true"))
    return response
