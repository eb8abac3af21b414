"""JSON as RFC 8259 has it, and every number as it was written."""

import json
from decimal import Decimal
from typing import Any


class NotJson(ValueError):
    """What was sent is not JSON; the message says where."""


def parse_json(data: bytes) -> Any:
    """The content of `data`. A number with a fraction is a Decimal, exactly as it was written.

    Raises:
        NotJson: it is not JSON; NaN, Infinity and nesting without end are not.
    """
    try:
        return DECODER.decode(data.decode())
    except json.JSONDecodeError as exc:
        raise NotJson(f"Not valid JSON: {exc.msg} at character {exc.pos}") from None
    except RecursionError:
        raise NotJson("Not valid JSON: nested too deeply") from None
    except (ValueError, ArithmeticError):  # not UTF-8, NaN, or a number beyond all bounds
        raise NotJson("Not valid JSON") from None


def _refuse_constant(name: str) -> None:
    raise ValueError(name)


# orjson is faster, but reads a fraction as a double, and so loses digits.
DECODER = json.JSONDecoder(parse_float=Decimal, parse_constant=_refuse_constant)
