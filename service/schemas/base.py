"""What all schemas share: their configuration, and text that the database can hold."""

import re
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints
from pydantic_core import PydanticCustomError

PLAIN_INTEGER = re.compile(r"-?[0-9]+")


class Schema(BaseModel):
    """The base of every schema, and the one place of its configuration."""

    model_config = ConfigDict(
        validate_assignment=False,
        validate_default=False,
        str_strip_whitespace=True,
        extra="ignore",
    )


# PostgreSQL's text has no NUL.
SafeText = Annotated[str, StringConstraints(pattern=r"^[^\x00]*$")]

INT64_MAX = 2**63 - 1


def _refuse_creative_spelling(value: Any) -> Any:
    # Pydantic reads 1_0, +10 and 10.0 as 10: one more name for each resource, and a trap.
    if isinstance(value, str) and not PLAIN_INTEGER.fullmatch(value):
        raise PydanticCustomError("int_parsing", "Input should be a valid integer")
    return value


Int64 = Annotated[
    int,
    Field(ge=-INT64_MAX - 1, le=INT64_MAX, json_schema_extra={"format": "int64"}),
    BeforeValidator(_refuse_creative_spelling),
]
