"""What the OpenAPI document says of errors."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from pydantic import BaseModel, Field

MEANINGS = {
    404: "There is nothing with this id",
    413: "The body is larger than MAX_BODY_BYTES",
    422: "The request does not have the form that this operation takes",
    429: "Too many requests; `Retry-After` says when to come back",
    500: "A fault of the service",
    503: "The database does not answer at the moment; `Retry-After` says when to try again",
}


class Fault(BaseModel):
    """One fault of a request: where it is, in the body or among the parameters, and why."""

    pointer: str | None = Field(None, description="JSON Pointer into the body (RFC 6901)")
    parameter: str | None = Field(None, description="Name of the parameter or header")
    detail: str


class Problem(BaseModel):
    """An error (RFC 9457)."""

    type: str = Field(
        description="The kind of error, stable", examples=["urn:items-service:not-found"]
    )
    title: str
    status: int
    detail: str
    instance: str = Field(description="The path of the request")
    request_id: str = Field(description="What the log calls this request")
    errors: list[Fault] | None = Field(None, description="With 422: each fault")


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The `responses` of an operation that may end in these; those of every operation join them."""
    return {
        status: {"model": Problem, "description": MEANINGS[status]}
        for status in sorted({*statuses, 429, 500, 503})
    }


def operation_id(route: APIRoute) -> str:
    """The operation's name for generated clients: its function's."""
    return route.name


def use_problem_media_type(app: FastAPI) -> None:
    """Declare problems as what they are: FastAPI gives every model the route's media type."""

    def openapi() -> dict[str, Any]:
        if not app.openapi_schema:
            schema = get_openapi(
                title=app.title,
                version=app.version,
                description=app.description,
                routes=app.routes,
                tags=app.openapi_tags,
            )
            for path in schema["paths"].values():
                for operation in path.values():
                    for status, response in operation["responses"].items():
                        if status >= "400":
                            content = response["content"].pop("application/json")
                            response["content"]["application/problem+json"] = content
            app.openapi_schema = schema
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # the way FastAPI documents
