"""Requests with odd framing, with their statuses and the status of a request behind them."""

from dataclasses import dataclass

from tests.support.corpus import LAMP


@dataclass(slots=True, frozen=True)
class Shape:
    """A request, and the statuses of it and of a valid request right behind it."""

    data: bytes
    statuses: list[int]


LIVE = b"GET /health/live HTTP/1.1\r\nHost: test\r\n"
POST = b"POST /items HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n"
POST_BULK = POST.replace(b"/items", b"/items/bulk")
SIZE = b"Content-Length: 16\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
CREATED, REFUSED = [201, 200], [400]  # a refusal closes the connection

# fmt: off
REQUEST_LINES = [
    b" GET / HTTP/1.1", b"GET / HTTP/1.1 ", b"GET / ", b"GET\t/\tHTTP/1.1", b"GET / http/1.1",
    b"GET / SIP/2.0", b"GET / HTTP/1.2", b"GET / HTTP/11", b"GET", b"\x00", b"\xff", b"<xml/>",
    b"get / HTTP/1.1", b"FROB / HTTP/1.1", b"GET\x00 / HTTP/1.1", b"GET /\x00 HTTP/1.1",
    b"GET /\xff HTTP/1.1", b"GET /a b HTTP/1.1", b"GET a HTTP/1.1", b"GET http://[ HTTP/1.1",
    b"GET # HTTP/1.1", b"CONNECT test:80 HTTP/1.1", b"PRI * HTTP/2.0\r\n\r\nSM", b"\x16\x03\x01",
]
HEADER_LINES = [
    b"X", b": y", b"X : y", b"X\t: y", b"X\x00: y", b"X: \x00", b"X: a\rb", b"X: a\nb", b"X: \x01",
    b"X: \x7f", b" X: y", b"X: a\r\n b", b"\xff: y", b"X(: y",
]
BAD_SIZES = [  # of the body, which has 16 bytes
    *(b"Content-Length: " + value for value in [
        b"", b"+16", b"-1", b"0x10", b"1 6", b"16, 16", b"16;", b"1e1", b"16\x0b", b"\xb2",
        b"\r\n 16", b"9" * 20, b"16\r\nContent-Length: 16", b"16\r\nContent-Length: 1",
    ]),
    b"Content-Length : 16", b" Content-Length: 16", b"Content-Length\x00: 16",
]
GOOD_SIZES = [b"Content-Length:  16  ", b"content-length:16", b"Content-Length: 0016"]
BAD_CODINGS = [
    *(b"Transfer-Encoding: " + value for value in [
        b"", b"xchunked", b"chunked, identity", b"identity", b"chunked, chunked", b'"chunked"',
        b"chunked;q=1", b"\x0bchunked", b"gzip", b"chunked\x00", b"\xff", b"\r\n chunked",
        b"chunked\r\nContent-Length: 16", b"chunked\r\nTransfer-Encoding: identity",
    ]),
    b"Content-Length: 16\r\nTransfer-Encoding: chunked", b"Transfer-Encoding : chunked",
    b"X: y\nTransfer-Encoding: chunked", b"X: y\rTransfer-Encoding: chunked",
]
GOOD_CODINGS = [b"Transfer-Encoding: Chunked ", b"transfer-encoding:\tchunked"]
BAD_CHUNKS = [
    b"\r\n", b"g\r\n", b"0x10\r\nBODY", b" 10\r\nBODY", b"10 \r\nBODY", b"-10\r\nBODY",
    b"+10\r\nBODY", b"f" * 17 + b"\r\nBODY", b"10\nBODY", b"10\r\nBODYX", b"10\r\nBODY\n",
    b"10;\x00\r\nBODY", b"5\r\nBODY\r\n0\r\n\r\n", b"10\r\nBODY\r\n0\r\n X: y\r\n\r\n",
    b"10\r\nBODY\r\n0\r\nContent-Length: 3\r\n\r\n",
]
GOOD_CHUNKS = [
    b"10\r\nBODY\r\n0\r\n\r\n", b"10;a=b\r\nBODY\r\n0\r\n\r\n", b"10\r\nBODY\r\n000\r\n\r\n",
    b"0000000010\r\nBODY\r\n0\r\n\r\n", b"10\r\nBODY\r\n0\r\nX: y\r\nX-Request-ID: z\r\n\r\n",
    b"".join(b"1\r\n%c\r\n" % byte for byte in LAMP) + b"0\r\n\r\n",
]
# fmt: on

CHUNKS = GOOD_CHUNKS[0].replace(b"BODY", LAMP)


def _well_formed() -> list[Shape]:
    live = LIVE + b"\r\n"
    return [
        Shape(live * 5, [200] * 6),
        Shape(b"\r\n\r\n" + live, [200, 200]),
        Shape(live.replace(b"GET ", b"GET  "), [200, 200]),
        Shape(live.replace(b"/health", b"http://evil.example/health"), [200, 200]),
        Shape(live.replace(b"live", b"live#a"), [200, 200]),
        Shape(live.replace(b"1.1", b"1.0"), [200]),
        Shape(live.replace(b" HTTP/1.1", b""), [200]),  # HTTP/0.9, which closes
        Shape(live.replace(b"GET", b"HEAD"), [200, 200]),
        Shape(live.replace(b"GET", b"TRACE"), [405, 200]),
        Shape(live.replace(b"GET", b"OPTIONS"), [405, 200]),
        Shape(LIVE + SIZE + b"\r\n" + LAMP, [200, 200]),
        Shape(POST + SIZE + b"Expect: 100-continue\r\n\r\n" + LAMP, [100, *CREATED]),
        Shape(POST + b"Content-Length: 2000000\r\n\r\n" + b" " * 2_000_000, [413, 200]),
    ]


WELL_FORMED = _well_formed()
SHAPES = [
    *WELL_FORMED,
    *(Shape(line + b"\r\nHost: test\r\n\r\n", REFUSED) for line in REQUEST_LINES),
    *(Shape(LIVE + line + b"\r\n\r\n", REFUSED) for line in HEADER_LINES),
    Shape(LIVE.replace(b"\r", b"") + b"\n", REFUSED),
    *(Shape(POST + line + b"\r\n\r\n" + LAMP, REFUSED) for line in BAD_SIZES),
    *(Shape(POST + line + b"\r\n\r\n" + LAMP, CREATED) for line in GOOD_SIZES),
    *(Shape(POST + line + b"\r\n\r\n" + CHUNKS, REFUSED) for line in BAD_CODINGS),
    *(Shape(POST + line + b"\r\n\r\n" + CHUNKS, CREATED) for line in GOOD_CODINGS),
    *(
        Shape(POST + CHUNKED + b"\r\n" + chunks.replace(b"BODY", LAMP), statuses)
        for bodies, statuses in ((BAD_CHUNKS, REFUSED), (GOOD_CHUNKS, CREATED))
        for chunks in bodies
    ),
]
