"""Where a request ends: a request right behind it gets the next response, or the connection closes.

Otherwise a client could smuggle requests past a proxy (RFC 9112, section 11.2).
"""

from collections.abc import Callable, Iterable

import pytest

from tests.support.framing import SHAPES
from tests.support.hostile import LAST, connect, receive, send, statuses
from tests.support.processes import Server

pytestmark = pytest.mark.faults


def at_once(data: bytes) -> Iterable[bytes]:
    return [data]


def byte_by_byte(data: bytes) -> Iterable[bytes]:
    return (data[at : at + 1] for at in range(len(data)))


@pytest.mark.parametrize("cut", [at_once, byte_by_byte])
def test_the_end_of_a_request_is_found_in_one_place_only(
    server: Server, cut: Callable[[bytes], Iterable[bytes]]
) -> None:
    shapes = [shape for shape in SHAPES if len(shape.data) < 1000 or cut is at_once]
    faults = []
    for shape in shapes:
        with connect(server) as sock:
            send(sock, *cut(shape.data), LAST)
            answers = statuses(receive(sock))
        if answers != shape.statuses:
            faults.append(f"{answers} instead of {shape.statuses}: {shape.data[:300]!r}")

    assert not faults, "\n".join([f"{len(faults)} of {len(shapes)}", *faults])
