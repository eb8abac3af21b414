"""Hooks that Schemathesis imports in its own process.

This module imports little of the service, so that Schemathesis starts faster.
"""

from typing import Any

import schemathesis
from schemathesis.core.failures import AcceptedNegativeData, Failure
from schemathesis.openapi.checks import RejectedPositiveData

from service.schemas.listing import MAX_DEPTH

# Errors that depend on earlier requests: an ETag that is not current, a key that was used.
STATEFUL_ERRORS = (
    "urn:items-service:precondition-failed",
    "urn:items-service:idempotency-key-reused",
)


@schemathesis.hook
def before_call(
    context: schemathesis.HookContext, case: schemathesis.Case[Any], kwargs: dict[str, Any]
) -> None:
    """Make valid input follow the rules that the document cannot express."""
    if not case.meta or not case.meta.generation.mode.is_positive:
        return
    if case.meta.phase.name == "coverage":  # fills headers with letters and digits only
        case.headers.pop("If-Match", None)
        case.headers.pop("Idempotency-Key", None)
    case.query.pop("cursor", None)  # only the service can create one
    page, per_page = int(case.query.get("page", 1)), int(case.query.get("per_page", 20))
    if page * per_page > MAX_DEPTH:
        case.query["page"] = MAX_DEPTH // per_page
    case.query = rounded(case.query)
    case.body = rounded(case.body)
    # A plain DELETE may only deactivate a row, so the row is still there.
    may_stay = "permanent" in case.operation.query
    if may_stay and case.method == "DELETE" and case.meta.phase.name == "stateful":
        case.query["permanent"] = True


def rounded(content: Any) -> Any:
    """Round numbers to cents: only prices have decimals, and the document declares no step of 0.01,
    as doubles are inexact."""
    if isinstance(content, float):
        return round(content, 2) + 0.0  # turns -0.0 into 0.0
    if isinstance(content, list):
        return [rounded(part) for part in content]
    if isinstance(content, dict):
        return {name: rounded(part) for name, part in content.items()}
    return content


@schemathesis.hook
def filter_failure(
    context: schemathesis.HookContext,
    failure: Failure,
    case: schemathesis.Case[Any],
    response: schemathesis.Response,
) -> bool:
    """Drop failures that the document cannot rule out."""
    if isinstance(failure, AcceptedNegativeData):
        return not has_outer_spaces(case.body)  # the service trims them before it checks the length
    return not (
        isinstance(failure, RejectedPositiveData) and response.json()["type"] in STATEFUL_ERRORS
    )


def has_outer_spaces(content: Any) -> bool:
    """Return whether a text begins or ends with a space."""
    if isinstance(content, str):
        return content != content.strip()
    if isinstance(content, list):
        return any(has_outer_spaces(part) for part in content)
    return isinstance(content, dict) and any(has_outer_spaces(part) for part in content.values())
