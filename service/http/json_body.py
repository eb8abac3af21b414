"""JSON (RFC 8259) with exact numbers, parsed by jiter, the parser inside pydantic-core."""

import re
from typing import Any

import jiter

# Maximum number of commas and opening brackets: 200 for each item of the largest bulk. A parsed
# value takes up to 45 times the memory of its text.
MAX_TOKENS = 200_000
STRING = re.compile(rb'"(?:[^"\\]++|\\.?)*+"?', re.DOTALL)
POSITION = re.compile(r"line \d+ column \d+$")


class NotJson(ValueError):
    """The data is not JSON, or has too many values; the message says where or why."""


def parse_json(data: bytes) -> Any:
    """Return the content of `data`; a number with a fraction or an exponent is an exact Decimal.

    Nesting is limited to 200 levels, and integers to 4,300 digits.

    Raises:
        NotJson: `data` is not JSON (NaN, Infinity and repeated keys are not), or it is too large.
    """
    if _has_too_many_values(data):
        raise NotJson("The body has too many values")
    try:
        return jiter.from_json(
            data, allow_inf_nan=False, catch_duplicate_keys=True, float_mode="decimal"
        )
    except ValueError as exc:
        # jiter's message would repeat a duplicate key.
        position = POSITION.search(str(exc))
        where = f" at {position[0]}" if position else ""
        raise NotJson(f"The body is not valid JSON{where}") from None


def _has_too_many_values(data: bytes) -> bool:
    tokens = _tokens(data)
    if tokens <= MAX_TOKENS:
        return False
    for number, string in enumerate(STRING.finditer(data)):
        tokens -= _tokens(string[0])
        if tokens <= MAX_TOKENS:
            return False
        if number > 2 * MAX_TOKENS:  # JSON has at most two strings for each comma
            break
    return True


def _tokens(data: bytes) -> int:
    return sum(map(data.count, (b",", b"[", b"{")))
