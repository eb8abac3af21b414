"""Rate limits: declared as with slowapi, counted asynchronously.

slowapi's own check is synchronous and would block the event loop on Redis. So the decorators of
`limiter` only record a limit, and `count_request`, a dependency of every operation, counts.
"""

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Any, TypeVar

import slowapi
from limits import RateLimitItem, parse_many
from slowapi.errors import RateLimitExceeded
from slowapi.util import get_remote_address
from slowapi.wrappers import Limit
from starlette.requests import HTTPConnection, Request

from service.access.counters import Hit, Quota
from service.access.scopes import client_name
from service.observability.metrics import RATE_LIMIT_FAILURES, RATE_LIMITED
from service.state import state_of

Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Declaration:
    """The arguments of one of slowapi's decorators, as functions of the request.

    Attributes:
        value: returns limits in the notation of `limits`; "" is no limit.
        scope: name of what operations share; None for a limit of one operation.
    """

    value: Callable[[Request], str]
    key_func: Callable[[Request], str]
    scope: str | None
    per_method: bool
    methods: Sequence[str] | None
    error_message: str | Callable[..., str] | None
    exempt_when: Callable[[Request], bool]
    cost: Callable[[Request], int]

    def hits(self, request: Request) -> Iterator[Hit]:
        """Yield how `request` counts."""
        if self.methods and request.method.lower() not in map(str.lower, self.methods):
            return
        if not (value := self.value(request)) or self.exempt_when(request):
            return
        scope = self.scope or request.scope["endpoint"].__name__
        if self.per_method:
            scope = f"{scope}:{request.method}"
        client, cost = self.key_func(request), self.cost(request)
        for limit in _parse(value):
            yield Hit(limit, scope, client, cost)


class Limiter(slowapi.Limiter):
    """slowapi's Limiter; its decorators record limits and leave the function as it is."""

    def __init__(self, key_func: Callable[..., str]) -> None:
        super().__init__(key_func=key_func)
        self._declared: dict[Callable[..., Any], list[Declaration]] = {}

    def limit(
        self, limit_value: Any, key_func: Any = None, *args: Any, **options: Any
    ) -> Callable[[Function], Function]:
        """Limit one operation; the arguments are slowapi's.

        A callable may take the request, or as with slowapi the client's `key`.
        """
        options |= zip(
            ("per_method", "methods", "error_message", "exempt_when", "cost"), args, strict=False
        )
        return self._declare(limit_value, None, key_func, **options)

    def shared_limit(
        self, limit_value: Any, scope: Any, key_func: Any = None, *args: Any, **options: Any
    ) -> Callable[[Function], Function]:
        """Limit operations that count together; the arguments are slowapi's."""
        options |= zip(("error_message", "exempt_when", "cost"), args, strict=False)
        return self._declare(limit_value, scope, key_func, **options)

    def declared(self, endpoint: Callable[..., Any]) -> Sequence[Declaration]:
        """Return the limits of an operation's function."""
        return self._declared.get(inspect.unwrap(endpoint), ())

    def _declare(
        self,
        value: Any,
        scope: str | None,
        key_func: Any,
        *,
        per_method: bool = False,
        methods: Sequence[str] | None = None,
        error_message: str | Callable[..., str] | None = None,
        exempt_when: Any = False,
        cost: Any = 1,
        override_defaults: bool = True,  # there are no defaults
    ) -> Callable[[Function], Function]:
        if isinstance(value, str):
            parse_many(value)  # refuses another notation
        key_of = _of_request(key_func or self._key_func)
        declaration = Declaration(
            value=_of_request(value, key_of),
            key_func=key_of,
            scope=scope,
            per_method=per_method,
            methods=methods,
            error_message=error_message,
            exempt_when=_of_request(exempt_when or False, key_of),
            cost=_of_request(cost, key_of),
        )

        def record(function: Function) -> Function:
            self._declared.setdefault(inspect.unwrap(function), []).append(declaration)
            return function

        return record


def _of_request(given: Any, key_of: Callable[[Request], str] | None = None) -> Callable[..., Any]:
    """Return a constant, or a function of nothing or of the key, as a function of the request."""
    if not callable(given):
        return lambda request: given
    parameters = tuple(inspect.signature(given).parameters)
    if not parameters:
        return lambda request: given()
    if key_of and parameters == ("key",):
        return lambda request: given(key_of(request))
    function: Callable[..., Any] = given
    return function


def client_of(request: Request) -> str:
    """Return whose requests count together: those of one API key, or from one network."""
    if name := client_name(request):
        return f"key:{name}"
    prefix = state_of(request).settings.rate_limit_ipv6_prefix
    return f"address:{network_of(get_remote_address(request), prefix)}"


@lru_cache(1024)
def network_of(address: str, ipv6_prefix: int) -> str:
    """Return the IPv4 address, or the IPv6 network, of `address`; "unknown" if it is neither.

    One customer has a whole IPv6 network, usually of 64 bits (RFC 6177).
    """
    try:
        parsed = ip_address(address)
    except ValueError:
        return "unknown"
    if not isinstance(parsed, IPv6Address):
        return str(parsed)
    if parsed.ipv4_mapped:
        return str(parsed.ipv4_mapped)
    return str(ip_network((int(parsed), ipv6_prefix), strict=False))


limiter = Limiter(key_func=client_of)


def reads(request: Request) -> str:
    """Return the limit for reads, as set in `RATE_LIMIT_READ`."""
    return state_of(request).settings.rate_limit_read


def writes(request: Request) -> str:
    """Return the limit for writes, as set in `RATE_LIMIT_WRITE`."""
    return state_of(request).settings.rate_limit_write


async def count_request(connection: HTTPConnection) -> None:
    """Count a request in the limits of its operation, unless its route has counted it."""
    scope = connection.scope
    if scope["type"] == "http" and "rate_limit" not in scope:
        await count(Request(scope), limiter.declared(scope["endpoint"]))


async def count(request: Request, declarations: Sequence[Declaration]) -> None:
    """Count a request in these limits.

    Its response gets RateLimit headers, from the scope. While Redis fails, requests pass uncounted.

    Raises:
        RateLimitExceeded: the client made too many requests; `headers` has Retry-After.
    """
    scope = request.scope
    scope["rate_limit"] = ()
    hits = [(hit, declaration) for declaration in declarations for hit in declaration.hits(request)]
    if not hits:
        return
    quotas = await state_of(request).counters.count([hit for hit, _ in hits])
    if quotas is None:
        RATE_LIMIT_FAILURES.inc()
        return
    scope["rate_limit"] = _headers(quotas)
    exceeded = [(q, d) for q, (_, d) in zip(quotas, hits, strict=True) if q.left < 0]
    if exceeded:
        quota, declaration = max(exceeded, key=lambda pair: pair[0].reset)
        RATE_LIMITED.labels(quota.hit.scope).inc()
        raise _error(quota, declaration)


def _error(quota: Quota, declaration: Declaration) -> RateLimitExceeded:
    message = declaration.error_message
    limit = Limit(quota.hit.limit, declaration.key_func, None, False, None, message, None, 1, False)
    error = RateLimitExceeded(limit)
    error.headers = {"Retry-After": str(quota.reset)}
    return error


def _headers(quotas: Sequence[Quota]) -> list[tuple[bytes, bytes]]:
    """Return the RateLimit fields (draft-ietf-httpapi-ratelimit-headers)."""
    policies, left = [], []
    for quota in quotas:
        limit = quota.hit.limit
        name = f"{quota.hit.scope}-{limit.get_expiry()}"
        policies.append(f'"{name}";q={limit.amount};w={limit.get_expiry()}')
        left.append(f'"{name}";r={max(0, quota.left)};t={quota.reset}')
    return [
        (b"ratelimit-policy", ", ".join(policies).encode()),
        (b"ratelimit", ", ".join(left).encode()),
    ]


@lru_cache(1024)
def _parse(notation: str) -> Sequence[RateLimitItem]:
    return tuple(parse_many(notation))
