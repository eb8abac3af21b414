"""What all schemas share: their configuration, and text that the database can hold."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints


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
Int64 = Annotated[
    int, Field(ge=-INT64_MAX - 1, le=INT64_MAX, json_schema_extra={"format": "int64"})
]
