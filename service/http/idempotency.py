"""Idempotency-Key (draft 07 of the IETF): a request that is sent again is not done again.

The key, a fingerprint of its request and the answer are stored in the transaction of what the
request does: so either all of it happened or nothing. Only successes are stored; a request that
failed may be sent again with the same key.
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

LONGEST_KEY = 255  # characters
LOCK_TRIES, LOCK_PAUSE = 5, 0.05  # seconds between them
QUOTED = re.compile(r'"((?:[\x20\x21\x23-\x5b\x5d-\x7e]|\\["\\])*)"')
UNQUOTED = re.compile(r"[\x21\x23-\x7e][\x20-\x7e]*")


def idempotency_key(request: Request) -> str | None:
    """The key that `request` carries, with or without quotes; None if it carries none.

    Raises:
        BadRequest: it is empty, too long, or not of printable ASCII characters.
    """
    lines = [value for name, value in request.scope["headers"] if name == b"idempotency-key"]
    if not lines:
        return None
    line = lines[0].decode("latin-1").strip(" \t")
    if quoted := QUOTED.fullmatch(line):
        key = re.sub(r"\\(.)", r"\1", quoted[1])
    else:
        key = line if UNQUOTED.fullmatch(line) else ""
    if not key or len(key) > LONGEST_KEY or len(lines) > 1:
        raise BadRequest("Idempotency-Key should be one key of 1 to 255 printable characters")
    return key


async def once(
    request: Request, key: str, content: Any, act: Callable[[AsyncSession], Awaitable[Response]]
) -> Response:
    """What `act` answers, or answered when this request came with this key before.

    Args:
        content: the request's, as far as it matters; a repeated one must have the same.
        act: does the work within the session's transaction.

    Raises:
        InProgress: the first request with this key is not answered yet.
        KeyReused: the first request with this key was another one.
    """
    state = state_of(request)
    owner = client_name(request) or ""
    asked = orjson.dumps([request.method, request.scope["path"], content], default=str)
    fingerprint = hashlib.sha256(asked).digest()
    async with state.sessions.begin() as session:
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


async def _locks(session: AsyncSession, owner: str, key: str) -> bool:
    """Lock the key; one whose worker was killed is free when PostgreSQL has noticed."""
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
