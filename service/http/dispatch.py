"""Plain operations found by a look into a table, before FastAPI's router.

FastAPI compares a request with one route after the other. Which operations are called directly,
`http/direct.py` tells. All else goes to FastAPI's router: other operations and paths, every request
while a test overrides a dependency, and 404 and 405.
"""

import re
from dataclasses import dataclass

from fastapi import FastAPI
from fastapi.routing import RouteContext, iter_route_contexts
from starlette.convertors import StringConvertor
from starlette.types import Receive, Scope, Send

from service.http.body import StrictRequest
from service.http.routing import Handler, StrictRoute


@dataclass(slots=True)
class _Operation:
    """An operation that is called directly.

    Attributes:
        parameter: name and pattern of the value at the end of its path, if it has one.
    """

    handle: Handler
    route: RouteContext
    parameter: tuple[str, re.Pattern[str]] | None


class Dispatcher:
    """Calls the plain operations of an application; passes other requests on to its router."""

    def __init__(self, app: FastAPI) -> None:
        self.router = app.router.app
        # By method, and by the path without its parameter.
        self.whole: dict[tuple[str, str], _Operation] = {}
        self.up_to_parameter: dict[tuple[str, str], _Operation] = {}
        # Methods of routes that the router serves, and how their paths begin.
        others: list[tuple[set[str] | None, str]] = []
        for route in iter_route_contexts(app.routes):
            methods, begin = route.methods, (route.path or "").partition("{")[0]
            hides_it = any(
                not (methods and others_methods and methods.isdisjoint(others_methods))
                and (begin.startswith(others_begin) or others_begin.startswith(begin))
                for others_methods, others_begin in others
            )
            if hides_it or not self._add(route, begin):
                others.append((methods, begin))

    def _add(self, route: RouteContext, begin: str) -> bool:
        """Add a route to the tables; return False if the router has to serve it."""
        original = route.original_route
        if not isinstance(original, StrictRoute):
            return False
        parameter = _last_parameter(route)
        handle = original.direct_handler(route)
        if handle is None or (parameter is None and route.param_convertors):
            return False
        table = self.up_to_parameter if parameter else self.whole
        for method in route.methods or ():
            # FastAPI takes the first route that matches.
            if parameter or self._find(method, begin) is None:
                table.setdefault((method, begin), _Operation(handle, route, parameter))
        return True

    def _find(self, method: str, path: str) -> tuple[_Operation, dict[str, str]] | None:
        """Return the operation, and the parameter in its path."""
        if operation := self.whole.get((method, path)):
            return operation, {}
        head, slash, last = path.rpartition("/")
        operation = self.up_to_parameter.get((method, head + slash))
        if operation and operation.parameter:
            name, pattern = operation.parameter
            if pattern.fullmatch(last):
                return operation, {name: last}
        return None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        found = None
        if scope["type"] == "http" and not scope["app"].dependency_overrides:
            path = scope["path"]
            if root := scope.get("root_path"):
                path = path.removeprefix(root) if path.startswith(f"{root}/") else path
            found = self._find(scope["method"], path)
        if found is None:
            await self.router(scope, receive, send)
            return
        operation, scope["path_params"] = found
        scope["route"] = operation.route
        scope["endpoint"] = operation.route.endpoint
        response = await operation.handle(StrictRequest(scope, receive, send))
        await response(scope, receive, send)


def _last_parameter(route: RouteContext) -> tuple[str, re.Pattern[str]] | None:
    """Return the parameter of a path that ends with its only one, of characters but no slash."""
    if len(route.param_convertors) != 1:
        return None
    ((name, convertor),) = route.param_convertors.items()
    path = route.path_format or ""
    if not isinstance(convertor, StringConvertor) or not path.endswith(f"/{{{name}}}"):
        return None
    return name, re.compile(convertor.regex)
