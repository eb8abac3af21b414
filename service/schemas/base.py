"""Shared by all schemas: their configuration, and types for text, integers and times."""

import re
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
)
from pydantic_core import PydanticCustomError

PLAIN_INTEGER = re.compile(r"-?[0-9]+")
RFC3339 = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?"
    r"([Zz]|[+-][0-9]{2}:[0-9]{2})"
)


class Schema(BaseModel):
    """The base class of every schema, with its configuration."""

    model_config = ConfigDict(
        validate_assignment=False,
        validate_default=False,
        str_strip_whitespace=True,
        extra="ignore",
    )


# PostgreSQL's text has no NUL character.
SafeText = Annotated[str, StringConstraints(pattern=r"^[^\x00]*$")]

INT64_MAX = 2**63 - 1


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


Time = Annotated[AwareDatetime, BeforeValidator(_refuse_non_rfc3339), AfterValidator(_to_utc)]

PlainSpelling = BeforeValidator(_refuse_unusual_spelling)
Int64 = Annotated[
    int,
    Field(ge=-INT64_MAX - 1, le=INT64_MAX, json_schema_extra={"format": "int64"}),
    PlainSpelling,
]
