"""What the OpenAPI document needs beyond what FastAPI derives from the operations."""

from typing import Any

import orjson
from fastapi import FastAPI
from fastapi.routing import APIRoute
from pydantic import BaseModel, Field

from service.access.scopes import api_key
from service.http.problem import kinds

MEANINGS = {
    400: "The request or a header is malformed, or the Host is not allowed",
    401: "There is no API key, or none that is known; where keys are in use",
    403: "The API key lacks the scope; where keys are in use",
    404: "There is nothing with this id",
    406: "`Accept` names no form that this has",
    409: "A value that must be unique is taken, a row that must exist is missing, or a request with"
    " this Idempotency-Key is still being served; `Retry-After` then says when to try again",
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

# Description and schema of each header of a response.
RESPONSE_HEADERS: dict[str, tuple[str, dict[str, Any]]] = {
    "Accept-Patch": ("The media types that the body may have", {}),
    "ETag": ("The `version` in double quotes", {"pattern": '^"[1-9][0-9]*"$'}),
    "Idempotency-Replayed": (
        "Sent if this is the response to an earlier request with the same Idempotency-Key",
        {"enum": ["true"]},
    ),
    "Link": ("The pages around this one: first, prev, next and last (RFC 8288)", {}),
    "Location": ("The path of what was created", {"format": "uri-reference"}),
    "RateLimit": ("What the client has left, where limits are set", {}),
    "RateLimit-Policy": ("The limits, where they are set", {}),
    "Retry-After": ("Seconds after which to try again", {"type": "integer", "minimum": 0}),
    "WWW-Authenticate": ("How to authenticate (RFC 6750)", {}),
    "X-Request-ID": ("What the log calls this request", {}),
}
HEADERS_OF_ERRORS = {
    **dict.fromkeys(("401", "403"), ("WWW-Authenticate",)),
    **dict.fromkeys(("409", "429", "503"), ("Retry-After",)),
    "415": ("Accept-Patch",),
}
# Descriptions of tags; others are names of resources.
TAGS = {"system": "The state of the service, for load balancers and orchestrators"}

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
        description="The kind of error, stable",
        examples=["urn:items-service:not-found"],
        json_schema_extra={"enum": [*kinds()]},
    )
    title: str
    status: int
    detail: str
    instance: str = Field(description="The path of the request")
    request_id: str = Field(description="What the log calls this request")
    errors: list[Fault] | None = Field(None, description="With 422: each fault")


def problems(*statuses: int, takes_key: bool = True) -> dict[int | str, dict[str, Any]]:
    """Return the `responses` of an operation: these statuses and those of every operation."""
    common = {400, 401, 403, 429, 500, 503} if takes_key else {400, 500, 503}
    return {
        status: {"model": Problem, "description": MEANINGS[status]}
        for status in sorted({*statuses, *common})
    }


def sends(*names: str) -> dict[str, Any]:
    """Return what declares these headers in one of the `responses` of an operation."""
    return {"headers": {name: {"$ref": f"#/components/headers/{name}"} for name in names}}


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


def takes_merge_patch(schema: str) -> dict[str, Any]:
    """Return the `openapi_extra` of an operation whose body may be a merge patch (RFC 7396)."""
    body = {"schema": {"$ref": f"#/components/schemas/{schema}"}}
    return {"requestBody": {"content": {"application/merge-patch+json": body}}}


def operation_id(route: APIRoute) -> str:
    """Return the name of the operation's function, by which generated clients call it."""
    return route.name


def complete_openapi(app: FastAPI, *, has_keys: bool) -> None:
    """Add to the document what operations share: security, headers, tags, and names for clients."""
    derive = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema:
            return app.openapi_schema
        schema = derive()
        schemas = schema["components"]["schemas"]
        for name in ("HTTPValidationError", "ValidationError"):
            schemas.pop(name, None)
        for model in schemas.values():
            _describe_defaults(model)
        tags: dict[str, str] = {}
        for path in schema["paths"].values():
            for operation in path.values():
                _complete_security(operation, has_keys=has_keys)
                _complete_parameters(operation)
                _complete_responses(operation)
                tags |= {tag: f"Operations on {tag}" for tag in operation.get("tags", ())}
        schema["tags"] = [
            {"name": tag, "description": TAGS.get(tag, text)} for tag, text in tags.items()
        ]
        schema["components"]["headers"] = {
            name: {"description": text, "schema": {"type": "string"} | extra}
            for name, (text, extra) in RESPONSE_HEADERS.items()
        }
        return schema

    # FastAPI documents this way to extend the document.
    app.openapi = openapi  # type: ignore[method-assign]


def _describe_defaults(model: dict[str, Any]) -> None:
    """Move the default of an optional property to its description.

    Generators for TypeScript take a property with a default for one that is always there.
    """
    for name, field in model.get("properties", {}).items():
        if "default" in field and name not in model.get("required", ()):
            text, default = field.get("description", name), orjson.dumps(field.pop("default"))
            field["description"] = f"{text}; by default {default.decode()}"


def _complete_security(operation: dict[str, Any], *, has_keys: bool) -> None:
    scheme, security = api_key.scheme_name, operation.setdefault("security", [])
    # Linters allow scopes with OAuth only.
    for scope in [scope for schemes in security for scope in schemes.get(scheme, ())]:
        operation["description"] += f" Requires the scope `{scope}`."
        operation["security"] = [{scheme: []}] if has_keys else [{scheme: []}, {}]


def _complete_parameters(operation: dict[str, Any]) -> None:
    for parameter in operation.get("parameters", []):
        # FastAPI declares null, the value of a parameter that was not sent; no client can send it.
        schema = parameter["schema"]
        choices = [choice for choice in schema.get("anyOf", ()) if choice != {"type": "null"}]
        if len(choices) == 1:
            del schema["anyOf"]
            schema |= choices[0]
        values = [str(value) for value in schema.get("enum", ())]
        if any(value.startswith("-") for value in values):  # no name of a constant
            schema["x-enum-varnames"] = [
                f"{value[1:]}_desc" if value.startswith("-") else value for value in values
            ]


def _complete_responses(operation: dict[str, Any]) -> None:
    limits = ["RateLimit", "RateLimit-Policy"] if "429" in operation["responses"] else []
    for status, response in operation["responses"].items():
        headers = sends(*HEADERS_OF_ERRORS.get(status, ()), *limits, "X-Request-ID")["headers"]
        response["headers"] = response.get("headers", {}) | headers
        if status == "422" or _is_problem(response):
            # FastAPI declares every model with the media type of the route, and a form of its own
            # for what it cannot validate, in place of which clients get a problem.
            response["content"] = {"application/problem+json": {"schema": {"$ref": PROBLEM}}}


def _is_problem(response: dict[str, Any]) -> bool:
    content = response.get("content", {}).get("application/json", {})
    return bool(content.get("schema", {}).get("$ref") == PROBLEM)
