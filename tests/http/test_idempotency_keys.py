"""The syntax of Idempotency-Key: a string of 1 to 255 characters, in quotes or not."""

import httpx2 as httpx
from fastapi import FastAPI
from sqlalchemy import text

from service.state import state_of
from tests.support.idempotency import is_replay, post_raw, stored
from tests.support.problems import check_problem

ITEM = '{"name": "Lamp"}'

# Different keys, each without and with quotes.
SPELLINGS = [
    (b"abc", b'"abc"'),
    (b"ABC", b' \t"ABC"\t '),
    (b'a"b"', rb'"a\"b\""'),
    (rb"a\"b", rb'"a\\\"b"'),
    (rb"a\\b", rb'"a\\\\b"'),
    (b"a b", b'"a b"'),
    (b" a  b,c; d=1", b'"a  b,c; d=1"'),
    (b"!#[]~", b'"!#[]~"'),
    (b"x" + b'"' * 254, b'"x' + rb"\"" * 254 + b'"'),
    (b"' OR 1=1; DROP TABLE items; --%s:k", b'"\' OR 1=1; DROP TABLE items; --%s:k"'),
]

# The values of each line of the header.
MALFORMED = [
    [b""],
    [b'""'],
    [b"x" * 256],
    [b'"' + b"x" * 256 + b'"'],
    [b'"abc'],
    [b'"abc\\"'],
    [b'"a"b"'],
    [b'"abc"d'],
    [rb'"a\bc"'],
    [b"a\tb"],
    [b"a\x7fb"],
    [b'"a\x7fb"'],
    [b'"cl\xe9"'],
    [b"\xa0abc"],
    [b"abc", b""],
]


async def test_a_key_is_the_same_with_and_without_quotes(
    app: FastAPI, client: httpx.AsyncClient
) -> None:
    for plain, _ in SPELLINGS:
        assert not is_replay(await post_raw(client, "/items", ITEM, plain)), plain
    for _, quoted in SPELLINGS:
        assert is_replay(await post_raw(client, "/items", ITEM, quoted)), quoted

    async with state_of(app).engine.connect() as conn:
        keys = await conn.scalars(text("SELECT key FROM idempotency_keys"))
        assert set(keys) == {plain.strip().decode() for plain, _ in SPELLINGS}


async def test_a_malformed_key_is_a_400(app: FastAPI, client: httpx.AsyncClient) -> None:
    for keys in MALFORMED:
        answer = await post_raw(client, "/items", ITEM, *keys)

        assert answer.status_code == 400, f"{keys!r:.80}"
        check_problem(answer, 400, "bad-request")
    bulk = await post_raw(client, "/items/bulk", f'{{"items": [{ITEM}]}}', b"")
    check_problem(bulk, 400, "bad-request")

    assert await stored(app) == (0, 0)
