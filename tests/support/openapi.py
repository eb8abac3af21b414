"""The OpenAPI document, and how tests read it."""

from functools import cache
from typing import Any

from tests.support.commands import items


@cache
def printed_document() -> str:
    """Return what `items openapi` prints."""
    return items("openapi").stdout


def operations(document: Any) -> dict[tuple[str, str], Any]:
    """Return the operations of `document` by method and path."""
    return {
        (method.upper(), path): operation
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }


def resolve(document: Any, schema: Any) -> Any:
    """Return the schema that `schema` refers to, or `schema` itself."""
    if "$ref" in schema:
        return document["components"]["schemas"][schema["$ref"].rsplit("/", 1)[1]]
    return schema


def example(document: Any, content: Any) -> Any:
    """Return the example of `content`, a JSON body of a request or response."""
    media_type = content["application/json"]
    return media_type.get("example") or resolve(document, media_type["schema"])["example"]
