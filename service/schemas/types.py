"""Types of fields: integers, times, text and prices, as clients write them."""

import re
import unicodedata
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BeforeValidator,
    Field,
    StringConstraints,
    WithJsonSchema,
)
from pydantic_core import PydanticCustomError

from service.domain.price import MAX_PRICE

INT64_MAX = 2**63 - 1
MAX_BODY_INT = 2**53 - 1
PLAIN_INTEGER = re.compile(r"-?[0-9]+")
PLAIN_DECIMAL = re.compile(r"[0-9]+(\.[0-9]+)?")
RFC3339 = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?"
    r"([Zz]|[+-][0-9]{2}:[0-9]{2})"
)
# The white space that trimming removes: Unicode's, more than \s in a regular expression.
WHITE_SPACE = r"\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
CENT = Decimal("0.01")


def _refuse_unusual_spelling(value: Any) -> Any:
    # Pydantic reads 1_0, +10 and 10.0 as 10, which would give a resource several addresses.
    if isinstance(value, str) and not PLAIN_INTEGER.fullmatch(value):
        raise PydanticCustomError("int_parsing", "Input should be a valid integer")
    return value


def _refuse_non_rfc3339(value: Any) -> Any:
    # Pydantic accepts other forms, such as seconds since 1970.
    if not isinstance(value, str) or not RFC3339.fullmatch(value):
        raise PydanticCustomError(
            "time", "Should be a time like 2026-11-22T09:30:00Z (RFC 3339; a + is %2B in a query)"
        )
    return value


def _to_utc(value: datetime) -> datetime:
    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise PydanticCustomError("time", "Should be a time of the years 1 to 9999") from None


def _refuse_extreme(value: datetime) -> datetime:
    # The driver sends the first and the last time of Python as -infinity and infinity.
    if value.replace(tzinfo=None) in (datetime.min, datetime.max):
        raise PydanticCustomError("time", "Should be a time of the years 1 to 9999")
    return value


def _refuse_non_number(value: Any) -> Any:
    if isinstance(value, float):  # on a route that reads JSON as FastAPI does
        return Decimal(str(value))
    if isinstance(value, int | Decimal) and not isinstance(value, bool):
        return value
    raise PydanticCustomError("number_type", "Input should be a number")


def _to_int(value: Any) -> Any:
    # 3.0 is an integer, too (JSON Schema). The bound comes first: int() of 1e999999999 takes long.
    if isinstance(value, Decimal) and abs(value) <= MAX_BODY_INT and value == int(value):
        return int(value)
    return value


def _refuse_non_decimal(value: Any) -> Any:
    # Pydantic reads 1_0 and 1e1 as 10.
    if not isinstance(value, str) or not PLAIN_DECIMAL.fullmatch(value):
        raise PydanticCustomError("decimal_parsing", "Input should be a valid decimal")
    return value


def _to_cents(value: Decimal) -> Decimal:
    # One spelling for each price; the driver cannot send one as small as 0e-20000.
    return abs(value).quantize(CENT)


def _to_normal_form(value: Any) -> Any:
    if isinstance(value, str) and not value.isascii():
        return unicodedata.normalize("NFC", value)
    return value


# Integers of a path or a query.
PlainSpelling = BeforeValidator(_refuse_unusual_spelling)
Int64 = Annotated[
    int,
    Field(ge=-INT64_MAX - 1, le=INT64_MAX, json_schema_extra={"format": "int64"}),
    PlainSpelling,
]

# An integer in a body: JSON implementations agree on those of 53 bits (RFC 8259, section 6).
BodyInt = Annotated[
    int, Field(strict=True, ge=-MAX_BODY_INT, le=MAX_BODY_INT), BeforeValidator(_to_int)
]

# The id and the version of a stored row.
StoredId = Annotated[int, Field(json_schema_extra={"format": "int64"})]
Version = Annotated[
    int,
    Field(ge=1, description="1, plus one with each change", json_schema_extra={"format": "int64"}),
]

Time = Annotated[AwareDatetime, BeforeValidator(_refuse_non_rfc3339), AfterValidator(_to_utc)]
# A time to store.
BodyTime = Annotated[Time, AfterValidator(_refuse_extreme)]

# Text as PostgreSQL stores it, which has no NUL character.
StoredText = Annotated[str, StringConstraints(pattern=r"^[^\x00]*$")]
# Text in one Unicode normal form, so that each spelling of an accent finds the others.
SafeText = Annotated[StoredText, BeforeValidator(_to_normal_form)]
# A name or a title, on one line of a screen.
ShortText = Annotated[
    SafeText,
    StringConstraints(min_length=1, max_length=255),
    # Text of white space alone is empty after trimming.
    WithJsonSchema(
        {
            "type": "string",
            "minLength": 1,
            "maxLength": 255,
            "pattern": rf"^[^\x00]*[^\x00{WHITE_SPACE}][^\x00]*$",
        }
    ),
]
LongText = Annotated[SafeText, StringConstraints(max_length=10_000)]

# A price as the database stores it, and its spelling in a body and in a query.
Cents = Annotated[
    Decimal,
    Field(ge=0, le=MAX_PRICE, max_digits=12, decimal_places=2),
    AfterValidator(_to_cents),
    WithJsonSchema({"type": "number", "minimum": 0, "maximum": float(MAX_PRICE)}),
]
Price = Annotated[Cents, BeforeValidator(_refuse_non_number)]
PriceBound = Annotated[Cents, BeforeValidator(_refuse_non_decimal)]
