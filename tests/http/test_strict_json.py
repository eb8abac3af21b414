"""What is read as JSON, and how much of it, whatever it is made of."""

import json
import time
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from service.strict_json import MOST_DIGITS, MOST_TOKENS, NotJson, parse_json

SIZE = 16 * 1024**2
BEFORE = b'{"items": [{"name": "a", "price": '
# What a search for tokens could be slow at: strings that do not end, or end in doubt, and numbers.
HOSTILE = {
    "brackets": b"[" * SIZE,
    "lists": BEFORE + b"[]," * (SIZE // 3),
    "members": b'{"a":1,' * (SIZE // 7),
    "quotes": b'"' * SIZE,
    "backslashes": b"\\" * SIZE,
    "spaces": b" " * SIZE,
    "digits": BEFORE + b"1" * SIZE,
    "fraction": BEFORE + b"0." + b"1" * SIZE,
    "numbers": BEFORE + b",".join([b"1" * MOST_DIGITS] * (SIZE // MOST_DIGITS)),
    "string": BEFORE + b'"' + b"x" * SIZE,
    "escaped quotes": BEFORE + b'"' + b'\\"' * (SIZE // 2),
    "quotes, escaped or not": BEFORE + b'"' + b'x\\"\\\\\\"' * (SIZE // 7),
    "escaped backslashes": BEFORE + b'"' + b"\\\\" * (SIZE // 2) + b'"',
    "strings that end in a backslash": BEFORE + b",".join([b'"%b\\\\"' % (b"x" * 200)] * 80_000),
}


def zeros(before: list[str], number: int) -> bytes:
    """A list of strings, and so many zeros."""
    return f"[{','.join([*before, *['0'] * number])}]".encode()


@hypothesis_settings(deadline=None, max_examples=50)
@given(texts=st.lists(st.text('"\\,[{\n0é'), max_size=20))
def test_what_strings_hold_is_no_token(texts: list[str]) -> None:
    strings = [json.dumps(text) for text in texts]
    room = MOST_TOKENS - 2 * len(strings)  # each of them is one, and so is the comma behind it

    assert parse_json(zeros(strings, room)) == texts + [0] * room
    with pytest.raises(NotJson, match="too many values"):
        parse_json(zeros(strings, room + 1))


@pytest.mark.parametrize("kind", HOSTILE)
def test_nothing_takes_long(kind: str) -> None:
    begun = time.monotonic()
    with pytest.raises(NotJson):
        parse_json(HOSTILE[kind])
    assert time.monotonic() - begun < 2  # where it is quadratic, hours


def test_a_number_is_read_as_it_was_written_or_not_at_all() -> None:
    integer = "9" * MOST_DIGITS
    fraction = "0." + integer

    content = parse_json(f"[{integer}, {fraction}, {fraction}{'0' * 5000}]".encode())
    assert content == [int(integer), Decimal(fraction), Decimal(fraction)]
    assert [type(number) for number in content] == [int, Decimal, Decimal]
    for number in (integer + "9", fraction + "9"):
        with pytest.raises(NotJson):
            parse_json(number.encode())
