"""Hostile requests for every operation of the OpenAPI document, with the values of `corpus`."""

import json
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from random import Random
from typing import Any
from urllib.parse import quote_from_bytes

from tests.support.commands import ROOT
from tests.support.corpus import (
    BODIES,
    CONTENT_TYPES,
    HEADERS,
    JSON,
    LAMP,
    NUMBERS,
    RAW,
    TEXTS,
    TIMES,
)
from tests.support.problems import MARK


@dataclass(slots=True, frozen=True)
class Operation:
    """An operation of the OpenAPI document."""

    method: str
    path: str
    parameters: dict[str, str]  # of the query: each name, and its schema without descriptions
    headers: frozenset[str]
    body: str  # the name of its schema; empty if there is none
    statuses: frozenset[int]


@dataclass(slots=True, frozen=True)
class Hostile:
    """A request, and the statuses that it may get."""

    data: bytes
    statuses: frozenset[int]


# The kind of each request, and the request. Requests of one kind run the same code of the service.
Attack = Iterator[tuple[Hashable, Hostile]]


def _operation(method: str, path: str, operation: dict[str, Any]) -> Operation:
    def schema(parameter: dict[str, Any]) -> str:
        ignored = ("title", "description", "examples", "default")
        return json.dumps({k: v for k, v in parameter["schema"].items() if k not in ignored})

    parameters = operation.get("parameters", [])
    content = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
    return Operation(
        method.upper(),
        path,
        {each["name"]: schema(each) for each in parameters if each["in"] == "query"},
        frozenset(each["name"] for each in parameters if each["in"] == "header"),
        content["schema"]["$ref"] if content else "",
        # Any may get a 400, 404, 405 or 431. An idle service has no reason for a 5xx.
        frozenset({400, 404, 405, 431} | {int(s) for s in operation["responses"] if s < "500"}),
    )


OPERATIONS = [
    _operation(method, path, operation)
    for path, methods in json.loads((ROOT / "openapi.json").read_text())["paths"].items()
    for method, operation in methods.items()
]
BY_NAME = {(operation.method, operation.path): operation for operation in OPERATIONS}
LIST, CREATE = BY_NAME["GET", "/items"], BY_NAME["POST", "/items"]
BULK, EXPORT = BY_NAME["POST", "/items/bulk"], BY_NAME["GET", "/items/export"]
WITH_BODY = [operation for operation in OPERATIONS if operation.body]
MEMBERS = (b"name", b"description", b"price", b"is_active", b"unknown")
STATUSES = frozenset[int]().union(*(operation.statuses for operation in OPERATIONS))


def build(
    operation: Operation,
    *,
    id_: bytes = b"1",
    query: bytes = b"",
    headers: list[tuple[bytes, bytes]] | None = None,
    body: bytes | None = None,
) -> Hostile:
    """Return a request for `operation` that is valid except for the given parts."""
    target = operation.path.encode().replace(b"{item_id}", id_)
    if query:
        target += b"?" + query
    usual = [(b"host", b"test")]
    if operation.body:
        body = _in_bulk(operation, LAMP) if body is None else body
        usual.append((b"content-type", b"application/json"))
    if body is not None:
        usual.append((b"content-length", b"%d" % len(body)))
    given = headers or []
    names = {name.lower() for name, _ in given}
    lines = [b"%b %b HTTP/1.1" % (operation.method.encode(), target)]
    lines += [b"%b: %b" % header for header in given]
    lines += [b"%b: %b" % header for header in usual if header[0] not in names]
    return Hostile(b"\r\n".join([*lines, b"", body or b""]), operation.statuses)


def _in_bulk(operation: Operation, item: bytes) -> bytes:
    return b'{"items": [%b]}' % item if operation is BULK else item


def marked(texts: list[bytes]) -> Iterator[bytes]:
    """Yield each text, with and without a prefix that no error may repeat."""
    for text in texts:
        yield text
        yield MARK.encode() + text


def spellings(texts: list[bytes]) -> list[bytes]:
    """Return each text of `marked`, encoded for a URL."""
    return [quote_from_bytes(text).encode() for text in marked(texts)]


def values_of_parameters() -> Attack:
    """Every value in place of every id, and of every parameter of a query."""
    values = [*spellings(TEXTS), *NUMBERS, *RAW, *TIMES]
    for operation in OPERATIONS:
        for value in values:
            if "{item_id}" in operation.path:
                yield (bool(operation.body), value), build(operation, id_=value)
            for name, schema in operation.parameters.items():
                query = b"%b=%b" % (name.encode(), value)
                yield (schema, value), build(operation, query=query)


def names_of_parameters() -> Attack:
    """Parameters that do not exist, are repeated, are arrays, or are very many."""
    forms = [b"%b[]=1", b"%b[0]=1", b"%b[a]=1", b"%b", b"%b=", b"%%00%b=1", b"%b%%00=1"]
    queries = [b"&".join(b"%x=1" % number for number in range(5000)), b"&" * 50_000]
    for name in (b"page", b"q", b"permanent", b"format", MARK.encode()):
        queries += [form % name for form in forms]
        queries += [b"&".join([b"%b=1" % name] * times) for times in (2, 3000)]
    queries += [name + b"=1" for name in [*spellings(TEXTS), *RAW]]
    for operation in OPERATIONS:
        for query in queries:
            kind = bool(operation.parameters), bool(operation.body), query
            yield kind, build(operation, query=query)


def values_of_members() -> Attack:
    """Every value in place of every member of every body."""
    values = [*JSON, *(b'"%b"' % text for text in marked(TEXTS))]
    for operation in WITH_BODY:
        for name in MEMBERS:
            for value in values:
                members = {b"name": b'"Lamp"', name: value}
                item = b"{%b}" % b", ".join(b'"%b": %b' % member for member in members.items())
                kind = operation.method == "PATCH", name, value
                yield kind, build(operation, body=_in_bulk(operation, item))


def bodies() -> Attack:
    """Bodies that no operation accepts, with every Content-Type and Content-Encoding."""
    for operation in OPERATIONS:
        for body in [*BODIES, *JSON]:
            yield (operation.body, body), build(operation, body=body)
        for type_ in CONTENT_TYPES:
            for body in (LAMP, b"\xff\xfe", b""):
                headers = [(b"Content-Type", type_)]
                yield (operation.body, type_, body), build(operation, headers=headers, body=body)
        for coding in HEADERS[b"Content-Encoding"]:
            for body in BODIES:
                headers = [(b"Content-Encoding", coding)]
                yield (coding, body), build(operation, headers=headers, body=body)


def headers() -> Attack:
    """Every header with every value, once and twice."""
    texts = [*marked([text for text in TEXTS if len(text) < 1000])]
    for operation in OPERATIONS:
        query = b"q=none" if "q" in operation.parameters else b""  # an export may be long
        for name, values in HEADERS.items():
            is_declared = name.decode("latin-1") in operation.headers
            if is_declared or operation in (LIST, CREATE, EXPORT):
                sent = [[(name, value)] for value in [*values, *texts]]
                sent += [[(name, value), (name, value)] for value in values]
                sent += [[(name, value), (name.upper(), b"1")] for value in values]
                for given in sent:
                    kind = is_declared, *given
                    yield kind, build(operation, query=query, headers=given)


ATTACKS = [values_of_parameters, names_of_parameters, values_of_members, bodies, headers]


def first_of_each_kind(attack: Attack) -> Attack:
    """Yield the first request of each kind."""
    seen = set()
    for kind, request in attack:
        if kind not in seen:
            seen.add(kind)
            yield kind, request


def generated(random: Random) -> Hostile:
    """Return a request for any operation, with several hostile values at once."""
    names = [name.encode() for operation in OPERATIONS for name in operation.parameters]

    def value() -> bytes:
        table = random.choice([TEXTS[:-1], RAW, NUMBERS[:-5], TIMES[:-1], [random.randbytes(8)]])
        return random.choice(table)

    def in_address() -> bytes:
        text = value()
        is_raw = random.random() < 0.5 and not set(text) & {*range(33), 127}
        return text if is_raw else quote_from_bytes(text).encode()

    def header() -> tuple[bytes, bytes]:
        name = random.choice([*HEADERS.keys() - {b"Connection"}])
        return name, random.choice([value(), *HEADERS[name]])

    def item() -> bytes:
        values = [random.choice([*JSON[:-4], value()]) for _ in MEMBERS]
        members = [*zip(MEMBERS, values, strict=True)]
        return b"{%b}" % b", ".join(b'"%b": %b' % each for each in random.sample(members, 3))

    query = [random.choice(names) + b"=" + in_address() for _ in range(random.randrange(4))]
    request = build(
        random.choice(OPERATIONS),
        id_=random.choice([b"1", in_address()]),
        query=b"&".join(query),
        headers=[header() for _ in range(random.randrange(4))],
        body=random.choice([None, item(), item(), random.choice(BODIES)]),
    )
    return Hostile(request.data, STATUSES)  # the id may lead to the path of another operation
