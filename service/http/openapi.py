"""What the OpenAPI document needs beyond what FastAPI derives from the operations."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from pydantic import BaseModel, Field

MEANINGS = {
    400: "A header is not well formed",
    401: "There is no API key, or none that is known; where keys are in use",
    403: "The API key lacks the scope; where keys are in use",
    404: "There is nothing with this id",
    406: "`Accept` names no form that this has",
    409: "A request with this Idempotency-Key is still being served",
    412: "None of the ETags in If-Match is the current one",
    413: "The body is larger than MAX_BODY_BYTES, or MAX_BULK_BYTES",
    415: "The body is of another type than `Accept-Patch` names",
    422: "The request does not have the form that this operation takes",
    428: "If-Match is missing, where REQUIRE_IF_MATCH is set",
    429: "Too many requests; `Retry-After` says when to come back",
    500: "A fault of the service",
    503: "The database does not answer at the moment, or more arrives than can be served;"
    " `Retry-After` says when to try again",
}

PROBLEM = "#/components/schemas/Problem"
HEADERS = {
    "If-Match": "ETags, one of which the item must have, or `*` (RFC 9110)",
    "If-None-Match": "ETags that the client has; with one of them the answer is 304 (RFC 9110)",
    "Idempotency-Key": "Chosen by the client, at most 255 characters: the same request with the"
    " same key is done once, and answered alike each time",
}
SCHEMAS = {
    "Idempotency-Key": {
        "pattern": r'^(?:"(?:[ !#-\[\]-~]|\\["\\]){1,255}"|[!#-~](?:[ -~]{0,253}[!-~])?)$'
    },
}


class Fault(BaseModel):
    """One fault of a request: its place, in the body or among the parameters, and the reason."""

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


def problems(*statuses: int, takes_key: bool = True) -> dict[int | str, dict[str, Any]]:
    """Return the `responses` of an operation: these statuses and those of every operation."""
    common = {401, 403, 429, 500, 503} if takes_key else {500, 503}
    return {
        status: {"model": Problem, "description": MEANINGS[status]}
        for status in sorted({*statuses, *common})
    }


def takes_headers(*names: str) -> dict[str, Any]:
    """Return the `openapi_extra` of an operation that reads these headers itself."""
    return {
        "parameters": [
            {
                "name": name,
                "in": "header",
                "description": HEADERS[name],
                "schema": {"type": "string"} | SCHEMAS.get(name, {}),
            }
            for name in names
        ]
    }


def operation_id(route: APIRoute) -> str:
    """Return the name of the operation's function, by which generated clients call it."""
    return route.name


def complete_openapi(app: FastAPI, *, has_keys: bool) -> None:
    """Name the media type of problems, and omit the security scheme where no keys are in use."""

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
                    _complete(operation, is_open=not has_keys)
            if not has_keys:
                schema["components"].pop("securitySchemes", None)
            for name in ("HTTPValidationError", "ValidationError"):
                schema["components"]["schemas"].pop(name, None)
            app.openapi_schema = schema
        return app.openapi_schema

    # FastAPI documents this way to extend the document.
    app.openapi = openapi  # type: ignore[method-assign]


def _complete(operation: dict[str, Any], *, is_open: bool) -> None:
    if is_open:
        operation.pop("security", None)
    for parameter in operation.get("parameters", []):
        # FastAPI declares null, the value of a parameter that was not sent; no client can send it.
        schema = parameter["schema"]
        choices = [choice for choice in schema.get("anyOf", ()) if choice != {"type": "null"}]
        if len(choices) == 1:
            del schema["anyOf"]
            schema |= choices[0]
    for status, response in operation["responses"].items():
        if status == "422" or _is_problem(response):
            # FastAPI declares every model with the media type of the route, and a form of its own
            # for what it cannot validate, in place of which clients get a problem.
            response["content"] = {"application/problem+json": {"schema": {"$ref": PROBLEM}}}


def _is_problem(response: dict[str, Any]) -> bool:
    content = response.get("content", {}).get("application/json", {})
    return bool(content.get("schema", {}).get("$ref") == PROBLEM)
