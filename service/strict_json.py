"""JSON as RFC 8259 has it, and every number as it was written."""

import json
import re
from decimal import MAX_EMAX, MIN_EMIN, Context, Inexact, InvalidOperation
from typing import Any

MOST_TOKENS = 200_000  # 200 for each item of the largest bulk; one with all its fields has 11
MOST_DIGITS = 1000  # of a number; the time to read an integer grows with their square

# What has more digits than that, except zeros at its end, is inexact, and so an error.
EXACT = Context(MOST_DIGITS, Emin=MIN_EMIN, Emax=MAX_EMAX, traps=[Inexact, InvalidOperation])

# What holds more tokens than that: strings, commas and opening brackets, as many as values or more.
# All is possessive or atomic, so that nothing is read more than twice, whatever it is.
TOO_MANY_TOKENS = re.compile(
    rb"""(?>
        [^"\[{,]*+
        (?: [\[{,]
        |   " [^"]*+ (?: (?<=[^\\]\\) " [^"]*+ )*+ (?<!\\) "  # most strings, five times as fast
        |   " [^"\\]*+ (?: \\. [^"\\]*+ )*+ "                # any string
        )
    ){%d}+"""
    % (MOST_TOKENS + 1),
    re.VERBOSE | re.DOTALL,
)


class NotJson(ValueError):
    """What was sent is not JSON, or too much of it; the message says where or why."""


def parse_json(data: bytes) -> Any:
    """The content of `data`. A number with a fraction is a Decimal, exactly as it was written.

    Raises:
        NotJson: it is not JSON; NaN, Infinity, and nesting, numbers and values without end are not.
    """
    # Values take up to 45 times their text in memory. What is short cannot hold too many.
    if len(data) > MOST_TOKENS and TOO_MANY_TOKENS.match(data):
        raise NotJson("Holds too many values")
    try:
        return DECODER.decode(data.decode())
    except json.JSONDecodeError as exc:
        raise NotJson(
            f"Not valid JSON: {exc.msg.removesuffix(' at')} at character {exc.pos}"
        ) from None
    except RecursionError:
        raise NotJson("Not valid JSON: nested too deeply") from None
    except (ValueError, ArithmeticError):  # not UTF-8, NaN, or a number beyond all bounds
        raise NotJson("Not valid JSON") from None


def _read_integer(text: str) -> int:
    if len(text.lstrip("-")) > MOST_DIGITS:
        raise ValueError
    return int(text)


def _refuse_constant(name: str) -> None:
    raise ValueError(name)


# orjson is faster, but reads a fraction as a double, and so loses digits.
DECODER = json.JSONDecoder(
    parse_float=EXACT.create_decimal,
    parse_int=_read_integer,
    parse_constant=_refuse_constant,
)
