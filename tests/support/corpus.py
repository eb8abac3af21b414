"""What hostile clients send: values, as bytes, since no library would write most of them, and the
requests that are made of them.
"""

import gzip
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from urllib.parse import quote_from_bytes

from tests.support.commands import ROOT
from tests.support.problems import MARK

INT64_MAX = 2**63 - 1
DIGITS = b"9" * 10_000
LAMP = b'{"name": "Lamp"}'

# Tables: as many of a line as it holds.
# fmt: off

# Text that something on the way may stumble over.
TEXTS = [
    b"",
    b"\x00",
    b"\x00 inside \x00",
    b"\x01\x08\x0b\x0c\x1b\x1f\x7f",
    b"\r\nX-Injected: yes\r\n\r\n",
    b"\xff\xfe",  # no UTF-8 has these
    b"\x80",
    b"\xc3",  # half a character
    b"\xc0\x80",  # NUL, overlong
    b"\xc0\xaf",  # a slash, overlong
    b"\xf0\x82\x82\xac",
    b"\xed\xa0\x80",  # a lone surrogate
    b"\xed\xb0\x80\xed\xa0\xbd",
    b"\xf4\x90\x80\x80",  # past the last character
    "\ufeff\u200b\u200d\u2060".encode(),  # of no width
    "\u202e\u2066 txt.exe\u2069".encode(),  # from right to left
    "\u0661\u0662\u0663".encode(),  # digits, but not ASCII's
    "\uff11\u00b2\u2460".encode(),
    "\u0130\u0131\u00df\ufb03\u1e9e".encode(),  # of another length in the other case
    ("a" + "\u0301" * 300).encode(),
    "\U0001f469\u200d\U0001f4bb\U0010ffff\uffff".encode(),
    b"%_\\%\\\\_%",
    b"%%%%%%%%%%%%%%%%%%%%" * 10,
    b"' OR '1'='1",
    b"'; DROP TABLE items; --",
    b"1); SELECT pg_sleep(10); --",
    b"$1 $2 :name %(name)s {0} ${jndi:ldap://localhost/a}",
    b"../../../../etc/passwd",
    b"..%2f..%2f",
    b"<script>alert(1)</script>",
    b"=1+1",
    b"x" * 255,
    b"x" * 256,
    b"x" * 20_000,
]

# In place of an id, a page, a price; as JSON and as a parameter.
NUMBERS = [
    b"0", b"-0", b"-1", b"+1", b"01", b"1_000", b"0x10", b"1.0", b"1.", b".5", b"1e2", b"1e-2",
    b"-0.0", b"0.001", b"9999999999.99", b"9999999999.991", b"10000000000", b"1e400", b"1e-400",
    b"1e1000000000000000000", b"NaN", b"nan", b"Infinity", b"-Infinity", b"inf", b"1 2", b"1,5",
    *(b"%d" % n for n in (2**31, 2**32, 2**53 + 1, INT64_MAX, INT64_MAX + 1, 2**64, 10**30)),
    *(b"-%d" % n for n in (INT64_MAX, INT64_MAX + 1, INT64_MAX + 2, 10**30)),
    DIGITS, b"-" + DIGITS, b"0." + DIGITS, b"0" * 10_000 + b"1", b"1e" + DIGITS,
]

# As they stand in an address, neither encoded nor fit to be.
RAW = [
    b"%", b"%0", b"%zz", b"%00", b"%0d%0a", b"%ff", b"%2f", b"%252f", b"%2e%2e", b"%c0%af",
    b"%ed%a0%80", b"%u0000", b"+", b"a+b", b"a%20b", b"%F0%9F%92%A1", b"%e2%80%ae", b"[]", b"{}",
    b"..", b".", b"...", b";a=b", b"a;b", b"a&b", b"a=b", b"&&&", b"===", b"a#b", b"#", b"?", b"??",
    b"null", b"true", b"false", b"undefined", b"None", b"bulk", b"export", b"~", b"|", b"^", b"`",
]

TIMES = [
    b"2026-11-22", b"2026-11-22T09:30:00", b"2026-11-22T09:30:00Z", b"2026-11-22t09:30:00z",
    b"0000-00-00T00:00:00Z", b"0001-01-01T00:00:00%2B23:59", b"9999-12-31T23:59:59-23:59",
    b"2026-02-30T00:00:00Z", b"2026-11-22T24:00:00Z", b"2026-11-22T23:59:60Z", b"0",
    b"2026-11-22T09:30:00%2B99:99", b"2026-11-22T09:30:00." + b"9" * 5000 + b"Z",
]

# In place of any member of a body; some of it is no JSON.
JSON = [
    *NUMBERS,
    b"null", b"true", b"false", b"[]", b"{}", b'""', b'"\\u0000"', b'"\\ud800"',
    b'"\\udfff\\ud800"', b'["a"]', b'{"a": "b"}', b"[[[[]]]]", b'{"__proto__": {"a": 1}}', b'"1"',
    b"'single'", b'"unclosed', b'"\t"', b'"\\x41"', b'"\\u00"', b'"\\', b"//", b"/* */ 1", b"1 1",
    b'"' + b"x" * 10_001 + b'"',
    b'"' + b"\\u0041" * 10_000 + b'"',
    b"[" * 100_000,
    b"[" * 100_000 + b"]" * 100_000,
    b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
]

BODIES = [
    b"", b" ", b"null", b"1", b'""', b"[]", b"[{}]", b"{", b"}", LAMP * 2, LAMP + b"\x00", b"\x00",
    b"\xef\xbb\xbf" + LAMP,
    LAMP.decode().encode("utf-16"),
    LAMP.decode().encode("utf-32"),
    gzip.compress(LAMP),
    gzip.compress(b'{"name": "' + b"x" * 10_000_000 + b'"}'),  # 10 kB that would be 10 MB
    b"name=Lamp&price=1",
    b'--b\r\nContent-Disposition: form-data; name="name"\r\n\r\nLamp\r\n--b--\r\n',
    b'{"name": "Lamp", "name": "Torch"}',
    b'{"name": "Lamp", "name": null}',
    b'{"name": "Lamp", "\\u006eame": 1}',
    b'{"name": "Lamp", "id": 1, "version": 1, "created_at": 0, "__class__": "x"}',
    b'{"name": "Lamp", "items": [' + LAMP + b"]}",
    b'{"items": {}}',
    b'{"items": []}',
    b'{"items": [null, 1, "a", [], {}]}',
    b'{"items": [' + b", ".join([LAMP] * 1001) + b"]}",
    b'{"items": [' + b"{}," * 50_000 + b"{}]}",
    b'{"name": "Lamp", ' + b",".join(b'"%x": 0' % n for n in range(50_000)) + b"}",
]

ETAGS = [
    b"*", b'"1"', b'W/"1"', b"1", b'""', b'"', b'"1', b"W/", b'w/"1"', b'*, "1"', b'"1" "2"',
    b'"1"' + b', "2"' * 5000, b'"' + DIGITS + b'"', b'"9223372036854775808"', b'"-1"', b'"01"',
    b'"a,b"', b'"\xff"', b'"\xc2\xb2"', b'"a\tb"', b", , ,", b",", b";", b'""""', b"W/W/" * 3000,
]
KEYS = [
    b'"a"', b'"\\"', b'"', b"a" * 255, b"a" * 256, b"a b", b"\xff", b'"a"; b=c', b"\\", b'"\\"a"',
]
ACCEPTS = [
    b"*", b"*/*;q=nan", b"*/*;q=1e400", b"text/csv;q=-1", b"text/csv;q=\xb2", b"/", b";", b",",
    b"text/csv," * 5000, b"text/csv" + b";q=1" * 5000, b'*/*;a="b, c;q=0', b"text/\xff", b"q=1",
]
CONTENT_TYPES = [
    b"application/json;charset=utf-16", b"application/json;charset=" + b"x" * 5000, b"/", b";",
    b"application/json" + b";" * 5000, b'application/json; a="', b"application/json, text/plain",
    b"application/+json", b"application/\xff+json", b"multipart/form-data", b"text/plain", b"*/*",
    b"multipart/form-data; boundary=b", b"application/x-www-form-urlencoded", b"\x85/json",
]

# By name: those that operations declare, and those that something on the way may look at.
HEADERS: dict[bytes, list[bytes]] = {
    b"If-Match": ETAGS,
    b"If-None-Match": ETAGS,
    b"Idempotency-Key": KEYS,
    b"Accept": ACCEPTS,
    b"Content-Type": CONTENT_TYPES,
    b"Content-Encoding": [b"gzip", b"deflate, br", b"identity", b"zstd", b"x" * 5000],
    b"Authorization": [b"Bearer", b"Bearer ", b"Bearer \xff", b"Basic Og==", b"Bearer " + DIGITS],
    b"Host": [b"", b"[", b"[::1", b"a:b:c", b"a b", b"a/../b?c#d@e", b"\xff", b"x" * 20_000],
    b"X-Request-ID": [b"a b", b"\xff", b"x" * 129, b"{}", b"../.."],
    b"X-Forwarded-For": [b"", b",", b"unknown", b"[::1", b"1.2.3.4, " * 3000, b"\xff", b"a:99999"],
    b"X-Forwarded-Proto": [b"", b"gopher", b"https, http", b"\xff", b"ws"],
    b"X-Forwarded-Host": [b"", b"[", b"evil.example"],
    b"Forwarded": [b'for="[::1', b"for=_x;proto=gopher"],
    b"X-HTTP-Method-Override": [b"DELETE", b"\xff"],
    b"Origin": [b"null", b"http://", b"\xff", b"x" * 5000],
    b"Access-Control-Request-Method": [b"", b"DELETE", b"\xff"],
    b"Range": [b"bytes=0-", b"bytes=-1", b"bytes=" + b"0-0," * 5000, b"bytes=9-1", b"items=0-1"],
    b"Cookie": [b"a=b" * 5000, b"=", b";", b"\xff"],
    b"Accept-Encoding": [b"gzip", b"gzip;q=nan", b"\xff"],
    b"Expect": [b"100-continue", b"100-Continue", b"200-ok", b"", b"\xff"],
    b"Connection": [b"", b",", b"close, keep-alive", b"content-length", b"\xff", b"x," * 5000],
    b"TE": [b"trailers", b"\xff"],
    b"traceparent": [b"", b"00-" + b"0" * 32 + b"-" + b"0" * 16 + b"-00", b"00-\xff", b"x" * 5000],
    b"Date": [b"never", b"\xff"],
    b"": [b"no name"],
    b"\xff": [b"a"],
    b"a b": [b"a"],
}

REQUEST_LINES = [
    b" GET /health/live HTTP/1.1", b"GET /health/live HTTP/1.1 ", b"GET /health/live ",
    b"GET\t/health/live\tHTTP/1.1", b"GET /health/live http/1.1", b"GET /health/live SIP/2.0",
    b"GET /health/live HTTP/9.9", b"GET /health/live HTTP/1.2", b"GET /health/live HTTP/11",
    b"GET", b"\x00", b"\xff\xfe", b"<xml/>", b"EHLO test", b"get /health/live HTTP/1.1",
    b"FROB /items HTTP/1.1", b"GET\x00 / HTTP/1.1", b"GET /health/live\x00 HTTP/1.1",
    b"GET /items/\xff HTTP/1.1", b"GET /a b HTTP/1.1", b"GET items HTTP/1.1", b"GET ?q=a HTTP/1.1",
    b"GET http:// HTTP/1.1", b"GET http://[ HTTP/1.1", b"GET # HTTP/1.1", b"GET test:80 HTTP/1.1",
    b"CONNECT test:80 HTTP/1.1", b"PRI * HTTP/2.0\r\n\r\nSM", b"\x16\x03\x01\x02\x00\x01\xfc",
]
HEADER_LINES = [
    b"X", b": y", b"X : y", b"X\t: y", b"X\x00: y", b"X: \x00", b"X: a\rb", b"X: a\nb", b"X: \x01",
    b"X: \x7f", b" X: y", b"X: a\r\n b", b"\xff: y", b"X(: y", b'"X": y',
]
BAD_SIZES = [  # of the body, which has 16 bytes
    *(b"Content-Length: %b" % value for value in [
        b"", b"+16", b"-1", b"0x10", b"1 6", b"16, 16", b"16;", b"1e1", b"16\x0b", b"\xb2",
        b"9" * 30, b"18446744073709551616", "\uff11\uff16".encode(), b"16\r\nContent-Length: 16",
        b"16\r\nContent-Length: 5", b"\r\n 16",
    ]),
    b"Content-Length : 16", b" Content-Length: 16", b"Content-Length\x00: 16",
]
GOOD_SIZES = [b"Content-Length:  16  ", b"content-length:16", b"Content-Length: 0016"]
BAD_CODINGS = [
    *(b"Transfer-Encoding: %b" % value for value in [
        b"", b"xchunked", b"chunked, identity", b"identity", b"chunked, chunked", b'"chunked"',
        b"chunked;q=1", b"chunked\x0b", b"\x0bchunked", b"gzip", b"chunked\x00", b"\xff",
        b"chunked\r\nContent-Length: 16", b"chunked\r\nTransfer-Encoding: chunked",
        b"chunked\r\nTransfer-Encoding: identity", b"\r\n chunked",
    ]),
    b"Content-Length: 16\r\nTransfer-Encoding: chunked",
    b"Content-Length: 16\r\nTransfer-Encoding: \r\n chunked",
    b"Transfer-Encoding : chunked", b"Transfer-Encoding\t: chunked",
    b"X: y\nTransfer-Encoding: chunked", b"X: y\rTransfer-Encoding: chunked",
]
GOOD_CODINGS = [b"Transfer-Encoding: Chunked ", b"transfer-encoding:\tchunked"]
BAD_CHUNKS = [
    b"\r\n", b"g\r\n", b"0x10\r\nBODY", b" 10\r\nBODY", b"10 \r\nBODY", b"-10\r\nBODY",
    b"+10\r\nBODY", b"f" * 17 + b"\r\nBODY", b"10\nBODY", b"10\r\nBODYX", b"10\r\nBODY\n",
    b"10;\x00\r\nBODY", b"\xb2\r\nBODY", b"5\r\nBODY\r\n0\r\n\r\n",
    b"10\r\nBODY\r\n0\r\nContent-Length: 3\r\n\r\n", b"10\r\nBODY\r\n0\r\n X: y\r\n\r\n",
    b"10\r\nBODY\r\n0\r\nTransfer-Encoding: chunked\r\n\r\n",
]
GOOD_CHUNKS = [
    b"10\r\nBODY\r\n0\r\n\r\n", b"10;a=b\r\nBODY\r\n0\r\n\r\n", b'10;a="\\""\r\nBODY\r\n0\r\n\r\n',
    b"0000000010\r\nBODY\r\n0\r\n\r\n", b"10\r\nBODY\r\n000\r\n\r\n",
    b"10\r\nBODY\r\n0\r\nX: y\r\nX-Request-ID: z\r\n\r\n",
    b"10;" + b"a" * 30_000 + b"\r\nBODY\r\n0\r\n\r\n",
    b"".join(b"1\r\n%c\r\n" % byte for byte in LAMP) + b"0\r\n\r\n",
]
# fmt: on


@dataclass(slots=True, frozen=True)
class Shape:
    """A request of an odd form, and the answers to it and to a good request right behind it."""

    data: bytes
    answers: list[int]


LIVE = b"GET /health/live HTTP/1.1\r\nHost: test\r\n"
POST = b"POST /items HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n"
SIZE = b"Content-Length: 16\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
CHUNKS = GOOD_CHUNKS[0].replace(b"BODY", LAMP)
TAKEN, REFUSED = [201, 200], [400]


def _odd_but_right() -> list[Shape]:
    live = LIVE + b"\r\n"
    h2c = b"Connection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMA\r\nUpgrade: h2c\r\n"
    web_socket = (
        b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    )
    return [
        Shape(live * 5, [200] * 6),
        Shape(b"\r\n\r\n" + live, [200, 200]),
        Shape(live.replace(b"GET ", b"GET  "), [200, 200]),
        Shape(live.replace(b"/health", b"http://evil.example/health"), [200, 200]),
        Shape(live.replace(b"live", b"live#a"), [200, 200]),
        Shape(live.replace(b"1.1", b"1.0"), [200]),
        Shape(live.replace(b" HTTP/1.1", b""), [200]),  # HTTP/0.9, which is answered and closed
        Shape(live.replace(b"GET", b"HEAD"), [200, 200]),
        Shape(live.replace(b"GET", b"TRACE"), [405, 200]),
        Shape(live.replace(b"GET", b"OPTIONS"), [405, 200]),
        Shape(LIVE + SIZE + b"\r\n" + LAMP, [200, 200]),
        Shape(POST + b"Content-Length: 2000000\r\n\r\n" + b" " * 2_000_000, [413, 200]),
        Shape(POST + SIZE + b"Expect: 100-continue\r\n\r\n" + LAMP, [100, *TAKEN]),
        # Wishes that the service does not grant; the parser cannot read what has a body.
        Shape(LIVE + h2c + b"\r\n", [200]),
        Shape(POST + SIZE + h2c + b"\r\n" + LAMP, REFUSED),
        Shape(POST + CHUNKED + h2c + b"\r\n" + CHUNKS, REFUSED),
        Shape(LIVE + web_socket + b"\r\n", [200]),
    ]


SHAPES = [
    *_odd_but_right(),
    *(Shape(line + b"\r\nHost: test\r\n\r\n", REFUSED) for line in REQUEST_LINES),
    *(Shape(LIVE + line + b"\r\n\r\n", REFUSED) for line in HEADER_LINES),
    Shape(LIVE.replace(b"\r", b"") + b"\n", REFUSED),
    *(Shape(POST + line + b"\r\n\r\n" + LAMP, REFUSED) for line in BAD_SIZES),
    *(Shape(POST + line + b"\r\n\r\n" + LAMP, TAKEN) for line in GOOD_SIZES),
    *(Shape(POST + line + b"\r\n\r\n" + CHUNKS, REFUSED) for line in BAD_CODINGS),
    *(Shape(POST + line + b"\r\n\r\n" + CHUNKS, TAKEN) for line in GOOD_CODINGS),
    *(
        Shape(POST + CHUNKED + b"\r\n" + chunks.replace(b"BODY", LAMP), REFUSED)
        for chunks in BAD_CHUNKS
    ),
    *(
        Shape(POST + CHUNKED + b"\r\n" + chunks.replace(b"BODY", LAMP), TAKEN)
        for chunks in GOOD_CHUNKS
    ),
]


@dataclass(slots=True, frozen=True)
class Operation:
    """An operation of the OpenAPI document, and what it may be answered with."""

    method: str
    path: str
    parameters: tuple[str, ...]  # of the query
    headers: tuple[str, ...]
    takes_body: bool
    statuses: frozenset[int]


@dataclass(slots=True, frozen=True)
class Hostile:
    """A request as it is sent, and what it may be answered with."""

    data: bytes
    statuses: frozenset[int]


# By the transport, or for a path or a method that there is not; whatever the operation.
ALWAYS = frozenset({400, 404, 405, 431})
OPERATIONS = [
    Operation(
        method.upper(),
        path,
        tuple(p["name"] for p in operation.get("parameters", []) if p["in"] == "query"),
        tuple(p["name"] for p in operation.get("parameters", []) if p["in"] == "header"),
        "requestBody" in operation,
        # No 500, and of a service that is idle no 503 either.
        ALWAYS | {int(status) for status in operation["responses"] if status < "500"},
    )
    for path, methods in json.loads((ROOT / "openapi.json").read_text())["paths"].items()
    for method, operation in methods.items()
]
BY_NAME = {(operation.method, operation.path): operation for operation in OPERATIONS}
LIST, CREATE = BY_NAME["GET", "/items"], BY_NAME["POST", "/items"]
BULK, EXPORT = BY_NAME["POST", "/items/bulk"], BY_NAME["GET", "/items/export"]
WITH_BODY = [operation for operation in OPERATIONS if operation.takes_body]
MEMBERS = (b"name", b"description", b"price", b"is_active", b"colour")


def build(
    operation: Operation,
    *,
    id_: bytes = b"1",
    query: bytes = b"",
    headers: list[tuple[bytes, bytes]] | None = None,
    body: bytes | None = None,
) -> Hostile:
    """A request for `operation` that is good but for what is given."""
    target = operation.path.encode().replace(b"{item_id}", id_)
    if query:
        target += b"?" + query
    usual = [(b"host", b"test")]
    if operation.takes_body:
        body = (b'{"items": [%b]}' % LAMP if operation is BULK else LAMP) if body is None else body
        usual.append((b"content-type", b"application/json"))
    if body is not None:
        usual.append((b"content-length", b"%d" % len(body)))
    given = headers or []
    names = {name.lower() for name, _ in given}
    all_headers = [*given, *(header for header in usual if header[0] not in names)]
    lines = [b"%b %b HTTP/1.1" % (operation.method.encode(), target)]
    lines += [b"%b: %b" % header for header in all_headers]
    return Hostile(b"\r\n".join([*lines, b"", body or b""]), operation.statuses)


def spellings(texts: list[bytes]) -> Iterator[bytes]:
    """Each text as it may stand in an address; and marked, so that it is known if it comes back."""
    for text in texts:
        yield quote_from_bytes(text).encode()
        yield (MARK + quote_from_bytes(text)).encode()


def values_of_parameters() -> Iterator[Hostile]:
    """Every value in place of every id, and of every parameter of a query."""
    values = [*spellings(TEXTS), *NUMBERS, *RAW, *TIMES]
    for operation in OPERATIONS:
        if "{item_id}" in operation.path:
            for value in values:
                yield build(operation, id_=value)
        for name in operation.parameters:
            for value in values:
                yield build(operation, query=b"%b=%b" % (name.encode(), value))


def names_of_parameters() -> Iterator[Hostile]:
    """Parameters that there are not, that come twice, as arrays, or in great number."""
    forms = (b"%b[]=1", b"%b[0]=1", b"%b[a]=1", b"%b", b"%b=", b"%%00%b=1", b"%b%%00=1")
    for operation in OPERATIONS:
        for name in (b"page", b"q", b"permanent", b"format", MARK.encode()):
            for form in forms:
                yield build(operation, query=form % name)
            yield build(operation, query=b"%b=1&%b=2" % (name, name))
            yield build(operation, query=b"&".join([b"%b=1" % name] * 3000))
        yield build(operation, query=b"&".join(b"%x=1" % number for number in range(5000)))
        yield build(operation, query=b"&" * 50_000)
        for name in [*spellings(TEXTS), *RAW] if operation in (LIST, CREATE) else []:
            yield build(operation, query=name + b"=1")


def values_of_members() -> Iterator[Hostile]:
    """Every value in place of every member of every body."""
    texts = [b'"%b%b"' % (mark, text) for text in TEXTS for mark in (b"", MARK.encode())]
    for operation in WITH_BODY:
        for name in MEMBERS:
            for value in [*JSON, *texts]:
                members = {b"name": b'"Lamp"', name: value}
                body = b"{%b}" % b", ".join(b'"%b": %b' % member for member in members.items())
                body = b'{"items": [%b]}' % body if operation is BULK else body
                yield build(operation, body=body)


def bodies() -> Iterator[Hostile]:
    """Every body that is none, of every type and coding that it may say it has."""
    for operation in OPERATIONS:
        for body in BODIES:
            yield build(operation, body=body)
    for operation in WITH_BODY:
        for body in JSON:
            yield build(operation, body=body)
        for type_ in CONTENT_TYPES:
            for body in (LAMP, b"\xff\xfe", b""):
                yield build(operation, headers=[(b"Content-Type", type_)], body=body)
        for coding in HEADERS[b"Content-Encoding"]:
            for body in BODIES:
                yield build(operation, headers=[(b"Content-Encoding", coding)], body=body)


def headers() -> Iterator[Hostile]:
    """Every header with every value, once and twice."""
    texts = [text for text in TEXTS if len(text) < 1000]
    texts += [MARK.encode() + text for text in texts]
    for operation in OPERATIONS:
        query = b"q=none" if "q" in operation.parameters else b""  # an export may be long
        for name, values in HEADERS.items():
            is_declared = name.decode("latin-1") in operation.headers
            if not is_declared and operation not in (LIST, CREATE, EXPORT):
                continue
            for value in [*values, *texts]:
                yield build(operation, query=query, headers=[(name, value)])
            for value in values:
                for other in ((name, value), (name.upper(), b"1")):
                    yield build(operation, query=query, headers=[(name, value), other])


ATTACKS: list[Callable[[], Iterator[Hostile]]] = [
    values_of_parameters,
    names_of_parameters,
    values_of_members,
    bodies,
    headers,
]


def cursors(good: dict[bytes, bytes]) -> Iterator[Hostile]:
    """Cursors with every byte changed, cut and longer, and those of other lists.

    Args:
        good: a cursor, by what its list is sorted by.
    """
    for sort, cursor in good.items():
        made = [cursor[:at] for at in range(len(cursor))]
        made += [cursor[:at] + b"A" + cursor[at + 1 :] for at in range(len(cursor))]
        made += [cursor[:at] + b"%00" + cursor[at + 1 :] for at in range(0, len(cursor), 7)]
        made += [cursor * 2, cursor + b"=", cursor + b"A" * 3000, cursor.swapcase(), b"=" * 50]
        for value in made:
            yield build(LIST, query=b"sort=%b&cursor=%b" % (sort, value))
        for other in good:
            yield build(LIST, query=b"sort=%b&cursor=%b" % (other, cursor))
