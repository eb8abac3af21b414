"""Operations called without FastAPI's dependency solver.

FastAPI solves an operation's dependencies for each request, which costs more than the rest of a
small one. So an operation is compiled when the service starts, if everything that it takes is
plain: the request, path values, one query model, one JSON model as body, and dependencies that are
`async def` functions of the request or of such dependencies. Arguments are validated by FastAPI's
own fields, with the same results and errors. For anything else, `compile_operation` returns None,
and FastAPI's path serves the operation.
"""

import inspect
from collections.abc import Callable, Collection, Coroutine
from dataclasses import dataclass
from typing import Any, get_type_hints

from fastapi import Request, Response, params
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import RouteContext, serialize_response
from pydantic import BaseModel
from starlette.requests import HTTPConnection

from service.http.body import StrictRequest

Handler = Callable[[StrictRequest], Coroutine[Any, Any, Response]]
# What FastAPI collects of a dependency or an operation that we do not read.
NOT_PLAIN = (
    *("header_params", "cookie_params", "response_param_name", "websocket_param_name"),
    *("background_tasks_param_name", "security_scopes_param_name", "concurrency"),
)


@dataclass(slots=True)
class _Step:
    """A function to call.

    Attributes:
        request_as: names of the arguments that are the request.
        results_as: numbers of the steps whose results are arguments, by their names.
        takes_request: whether the request is its only argument, by position.
    """

    call: Callable[..., Any]
    request_as: list[str]
    results_as: dict[str, int]
    takes_request: bool = False

    def arguments(self, request: StrictRequest, results: list[Any]) -> dict[str, Any]:
        """Return the arguments, of which `results` has those of earlier steps."""
        arguments: dict[str, Any] = {}
        for name in self.request_as:
            arguments[name] = request
        for name, result in self.results_as.items():
            arguments[name] = results[result]
        return arguments


def compile_operation(route: RouteContext, checked: Collection[Any]) -> Handler | None:
    """Return a handler that calls the operation of `route`; None if that is not plain.

    Args:
        checked: dependencies without a result that the route has already called.
    """
    dependant: Any = route.dependant
    endpoint: Any = route.endpoint
    steps: list[_Step] = []
    numbers: dict[str, int] = {}  # of the step for each argument
    if not (
        _returns_response(endpoint)
        and route.max_body_size is None
        and _is_plain(dependant)
        and _compile_dependencies(dependant, checked, steps, numbers)
        and _takes_plain_query(dependant.query_params)
        and _takes_plain_body(route)
    ):
        return None
    operation = _Step(endpoint, _request_names(dependant), numbers)
    path, query, bodies = dependant.path_params, dependant.query_params, dependant.body_params

    async def read_and_call(request: StrictRequest) -> Response:
        content = await request.json() if bodies else None
        results: list[Any] = []  # of the steps
        for step in steps:
            results.append(
                await step.call(request)
                if step.takes_request
                else await step.call(**step.arguments(request, results))
            )
        arguments = operation.arguments(request, results)
        errors: list[Any] = []
        for parameter in path:
            value, faults = parameter.validate(
                request.path_params[parameter.alias], {}, loc=("path", parameter.alias)
            )
            arguments[parameter.name] = value
            errors += faults
        for parameter in query:
            value, faults = parameter.validate(dict(request.query_pairs()), {}, loc=("query",))
            arguments[parameter.name] = value
            errors += faults
        for parameter in bodies:
            value, faults = parameter.validate(content, {}, loc=("body",))
            arguments[parameter.name] = value
            errors += faults
        if errors:
            raise RequestValidationError(errors, body=content)
        result = await endpoint(**arguments)
        return result if isinstance(result, Response) else await _serialize(route, result)

    return read_and_call


async def _serialize(route: RouteContext, result: Any) -> Response:
    """Return what FastAPI makes of a result that is not the declared Response."""
    content = await serialize_response(
        field=route.response_field,
        response_content=result,
        include=route.response_model_include,
        exclude=route.response_model_exclude,
        by_alias=route.response_model_by_alias,
        exclude_unset=route.response_model_exclude_unset,
        exclude_defaults=route.response_model_exclude_defaults,
        exclude_none=route.response_model_exclude_none,
    )
    return JSONResponse(content, route.status_code or 200)


def _returns_response(endpoint: Callable[..., Any]) -> bool:
    returned = get_type_hints(endpoint).get("return")
    return (
        inspect.iscoroutinefunction(endpoint)
        and isinstance(returned, type)
        and issubclass(returned, Response)
    )


def _is_plain(dependant: Any) -> bool:
    return not any(getattr(dependant, name) for name in NOT_PLAIN)


def _request_names(dependant: Any) -> list[str]:
    names = (dependant.request_param_name, dependant.http_connection_param_name)
    return [name for name in names if name]


def _compile_dependencies(
    dependant: Any, checked: Collection[Any], steps: list[_Step], numbers: dict[str, int]
) -> bool:
    """Append a step for each dependency, in FastAPI's order; return False if one is not plain.

    Each function is called once a request, like FastAPI's.

    Args:
        numbers: receives the number of the step for each of the dependant's arguments.
    """
    for dependency in dependant.dependencies:
        call = dependency.call
        if call in checked and dependency.name is None:
            continue
        known = next((step for step in steps if step.call is call), None)
        if known is None:
            if not (
                inspect.iscoroutinefunction(call)
                and _is_plain(dependency)
                and dependency.use_cache
                and not (dependency.path_params or dependency.query_params)
                and not dependency.body_params
                and not dependency.own_oauth_scopes
            ):
                return False
            inner: dict[str, int] = {}
            if not _compile_dependencies(dependency, checked, steps, inner):
                return False
            known = _Step(call, _request_names(dependency), inner, _takes_request(call))
            steps.append(known)
        if dependency.name is not None:
            numbers[dependency.name] = steps.index(known)
    return True


def _takes_request(call: Callable[..., Any]) -> bool:
    parameters = list(inspect.signature(call).parameters.values())
    return (
        len(parameters) == 1
        and parameters[0].annotation in (Request, HTTPConnection)
        and parameters[0].kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
    )


def _takes_plain_query(fields: list[Any]) -> bool:
    """Return whether the query is one model of single values, or is not read."""
    if not fields:
        return True
    model = fields[0].field_info.annotation
    return len(fields) == 1 and is_model(model) and not _has_lists_or_aliases(model)


def _takes_plain_body(route: RouteContext) -> bool:
    """Return whether the body is one JSON model, or is not read."""
    fields = route.dependant.body_params
    if not fields:
        return True
    body = fields[0].field_info
    is_json = isinstance(body, params.Body) and not isinstance(body, params.Form)
    # FastAPI wraps several bodies, and embedded ones, in a field of its own.
    return is_json and route.body_field is fields[0] and is_model(body.annotation)


def is_model(annotation: Any) -> bool:
    """Return whether a parameter's type is a Pydantic model."""
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _has_lists_or_aliases(model: type[BaseModel]) -> bool:
    schemas = model.model_json_schema()
    for name, info in model.model_fields.items():
        if info.alias or info.validation_alias:
            return True
        schema = schemas["properties"][name]
        for choice in [schema, *schema.get("anyOf", ())]:
            if choice.get("type") in ("array", "object") or "$ref" in choice:
                return True
    return False
