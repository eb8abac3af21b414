"""The configuration that all schemas share."""

from typing import Any

from pydantic import BaseModel, ConfigDict


class Schema(BaseModel):
    """The base class of every schema."""

    model_config = ConfigDict(
        validate_assignment=False,
        validate_default=False,
        str_strip_whitespace=True,
        extra="ignore",
    )


class QuerySchema(Schema):
    """The base class of parameters in a query: an unknown one is an error."""

    model_config = ConfigDict(extra="forbid", str_strip_whitespace=False)


def unset() -> Any:
    """Make a field optional: as `default_factory` of a field that is read only if it was sent."""
