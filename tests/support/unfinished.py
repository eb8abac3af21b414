"""A request whose body has not been sent yet."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from tests.support.processes import Server
from tests.support.waiting import TIMEOUT

BODY = b'{"name": "Sent last"}'
HEAD = (
    "POST /items HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n"
    f"Content-Length: {len(BODY)}\r\nExpect: 100-continue\r\n\r\n"
)


@contextmanager
def unfinished_request(server: Server) -> Iterator[socket.socket]:
    """Send the head of a request; yield its connection once the service waits for `BODY`.

    The service gives it up after REQUEST_TIMEOUT.
    """
    port = urlsplit(server.url).port
    with socket.create_connection(("127.0.0.1", port or 80), timeout=TIMEOUT) as client:
        client.sendall(HEAD.encode())
        assert client.recv(1000).startswith(b"HTTP/1.1 100 Continue")
        yield client
