"""The form of every error response."""

import re
from typing import Any

import httpx2 as httpx

from service.http.openapi import Problem
from service.http.problem import kinds

MARK = "hunter2-0b5c"  # sent by tests as content; no error may repeat it
INSIDES = re.compile(
    r"Traceback|File \"|\.py|asyncpg|sqlalchemy|pydantic|SELECT|INSERT|UPDATE|DELETE FROM|\$1|"
    rf"unnest|relation|{MARK}"
)


def check_problem(answer: httpx.Response, status: int, kind: str) -> Any:
    """Assert that `answer` is a complete problem (RFC 9457) of this kind; return its content."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    expected = {"type", "title", "status", "detail", "instance", "request_id"}
    assert problem.keys() == (expected | {"errors"} if kind == "invalid-input" else expected)
    assert Problem.model_validate(problem).model_dump(exclude_unset=True) == problem
    assert problem["type"] == f"urn:items-service:{kind}"
    assert problem["type"] in kinds()
    assert problem["status"] == status
    assert problem["title"]
    assert problem["detail"]
    assert problem["instance"] == answer.request.url.path
    assert problem["request_id"] == answer.headers["x-request-id"]
    assert not INSIDES.search(answer.text)
    return problem


def check_refused(answer: httpx.Response, *parameters: str) -> Any:
    """Assert that the request was refused because of these parameters; return the errors."""
    errors = check_problem(answer, 422, "invalid-input")["errors"]
    assert {error["parameter"] for error in errors} == set(parameters)
    assert all(error["detail"] for error in errors)
    return errors
