"""Hostile values, as bytes: libraries would refuse to send most of them."""

import gzip

INT64_MAX = 2**63 - 1
DIGITS = b"9" * 10_000
LAMP = b'{"name": "Lamp"}'

# fmt: off

TEXTS = [
    b"", b"\x00", b"a\x00b", b"\x01\x08\x0b\x0c\x1b\x1f\x7f", b"\r\nX-Injected: yes\r\n\r\n",
    # Not UTF-8: invalid bytes, half a character, overlong, surrogates, past the last character.
    b"\xff\xfe", b"\x80", b"\xc3", b"\xc0\x80", b"\xc0\xaf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80",
    # Zero width, right to left, digits that are not ASCII, another length in the other case.
    "\ufeff\u200b\u200d".encode(), "\u202e\u2066 txt.exe".encode(), "\u0661\uff11\u00b2".encode(),
    "\u0130\u00df\ufb03".encode(), ("a" + "\u0301" * 300).encode(), "\U0010ffff\uffff".encode(),
    b"%_\\%\\\\_%", b"%" * 200, b"' OR '1'='1", b"'; DROP TABLE items; --",
    b"$1 :name %(name)s {0}", b"../../../../etc/passwd", b"<script>alert(1)</script>", b"=1+1",
    b"x" * 255, b"x" * 256, b"x" * 20_000,
]

# In place of an id, a page or a price; in JSON and in a query.
NUMBERS = [
    b"0", b"-0", b"-1", b"+1", b"01", b"1_000", b"0x10", b"1.0", b"1.", b".5", b"1e2", b"1e-2",
    b"-0.0", b"0.001", b"9999999999.99", b"9999999999.991", b"10000000000", b"1e400", b"1e-400",
    b"1e1000000000000000000", b"NaN", b"nan", b"Infinity", b"-Infinity", b"inf", b"1 2", b"1,5",
    *(b"%d" % n for n in (2**31, 2**32, 2**53 + 1, INT64_MAX, INT64_MAX + 1, 2**64, 10**30)),
    *(b"-%d" % n for n in (INT64_MAX, INT64_MAX + 1, INT64_MAX + 2, 10**30)),
    DIGITS, b"-" + DIGITS, b"0." + DIGITS, b"0" * 10_000 + b"1", b"1e" + DIGITS,
]

# In a URL, without encoding.
RAW = [
    b"%", b"%0", b"%zz", b"%00", b"%0d%0a", b"%ff", b"%2f", b"%252f", b"%2e%2e", b"%c0%af",
    b"%ed%a0%80", b"%u0000", b"+", b"a+b", b"a%20b", b"%F0%9F%92%A1", b"[]", b"{}", b"..", b".",
    b";a=b", b"a;b", b"a&b", b"a=b", b"&&&", b"===", b"a#b", b"#", b"?", b"null", b"true", b"None",
    b"bulk", b"export", b"~", b"|", b"^", b"`",
]

TIMES = [
    b"2026-11-22", b"2026-11-22T09:30:00", b"2026-11-22T09:30:00Z", b"2026-11-22t09:30:00z",
    b"0000-00-00T00:00:00Z", b"0001-01-01T00:00:00%2B23:59", b"9999-12-31T23:59:59-23:59",
    b"2026-02-30T00:00:00Z", b"2026-11-22T24:00:00Z", b"2026-11-22T23:59:60Z",
    b"2026-11-22T09:30:00%2B99:99", b"2026-11-22T09:30:00." + b"9" * 5000 + b"Z",
]

# In place of a member of a body; some are not JSON.
JSON = [
    *NUMBERS,
    b"null", b"true", b"false", b"[]", b"{}", b'""', b'"\\u0000"', b'"\\ud800"', b'["a"]',
    b'{"a": "b"}', b"[[[[]]]]", b'{"__proto__": {"a": 1}}', b'"1"', b"'single'", b'"unclosed',
    b'"\t"', b'"\\x41"', b'"\\u00"', b'"\\', b"//", b"/* */ 1", b"1 1",
    b'"' + b"x" * 10_001 + b'"', b'"' + b"\\u0041" * 10_000 + b'"',
    b"[" * 100_000, b"[" * 100_000 + b"]" * 100_000, b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
]

BODIES = [
    b"", b" ", b"null", b"1", b'""', b"[]", b"[{}]", b"{", b"}", LAMP * 2, LAMP + b"\x00", b"\x00",
    b"\xef\xbb\xbf" + LAMP, LAMP.decode().encode("utf-16"), LAMP.decode().encode("utf-32"),
    gzip.compress(LAMP), gzip.compress(b'{"name": "' + b"x" * 10_000_000 + b'"}'),
    b"name=Lamp&price=1",
    b'--b\r\nContent-Disposition: form-data; name="name"\r\n\r\nLamp\r\n--b--\r\n',
    b'{"name": "Lamp", "name": null}', b'{"name": "Lamp", "\\u006eame": 1}',
    b'{"name": "Lamp", "id": 1, "version": 1, "created_at": 0, "__class__": "x"}',
    b'{"items": {}}', b'{"items": []}', b'{"items": [null, 1, "a", [], {}]}',
    b'{"items": [' + b", ".join([LAMP] * 1001) + b"]}", b'{"items": [' + b"{}," * 50_000 + b"{}]}",
    b'{"name": "Lamp", ' + b",".join(b'"%x": 0' % n for n in range(50_000)) + b"}",
]

ETAGS = [
    b"*", b'"1"', b'W/"1"', b"1", b'""', b'"', b'"1', b"W/", b'w/"1"', b'*, "1"', b'"1" "2"',
    b'"1"' + b', "2"' * 5000, b'"' + DIGITS + b'"', b'"9223372036854775808"', b'"-1"', b'"01"',
    b'"a,b"', b'"\xff"', b'"\xc2\xb2"', b'"a\tb"', b", , ,", b";", b'""""', b"W/W/" * 3000,
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

# Headers that operations declare, and those that a library or a proxy may read.
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
    b"Forwarded": [b'for="[::1', b"for=_x;proto=gopher"],
    b"X-HTTP-Method-Override": [b"DELETE", b"\xff"],
    b"Origin": [b"null", b"http://", b"\xff", b"x" * 5000],
    b"Access-Control-Request-Method": [b"", b"DELETE", b"\xff"],
    b"Range": [b"bytes=0-", b"bytes=" + b"0-0," * 5000, b"bytes=9-1", b"items=0-1"],
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
# fmt: on
