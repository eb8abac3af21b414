"""What is refused when more arrives than can be served or held, and how that stays cheap.

A refusal costs about as much as a small answer. Clients that ask again at once would take all the
time of those who are served, so each is refused again only when its turn comes: until then, what
its connection brings is kept for later. A proxy's connections carry the requests of others, too:
those are not held.
"""

import math
from time import monotonic

from starlette.types import Scope

from service.coalesce import QueueFull

REFUSALS = 250  # a second and worker, to clients that do not wait
LONGEST = 10.0  # seconds until a client's turn


class Refusals:
    """Tells the refused when to come back, one after the other."""

    def __init__(self) -> None:
        self._next = -math.inf

    def hold_off(self, scope: Scope) -> int:
        """Hold the connection until its turn. Answers with the seconds to be told: as many, rounded
        up, and no fewer than one."""
        now = monotonic()
        self._next = min(max(self._next + 1 / REFUSALS, now), now + LONGEST)
        seconds = self._next - now
        transport = scope.get("state", {}).get("transport")  # of service/transport.py
        if transport is not None and not transport.is_closing() and not _is_forwarded(scope):
            transport.get_protocol().hold(seconds)
        return max(1, math.ceil(seconds))


def _is_forwarded(scope: Scope) -> bool:
    """Whether a proxy that is believed says that the request is another's."""
    peer = scope["state"]["transport"].get_extra_info("peername")
    return not peer or not scope["client"] or scope["client"][0] != peer[0]


refusals = Refusals()


class Room:
    """The memory that the bodies of requests under way may take together, in bytes."""

    def __init__(self, size: int) -> None:
        self.left = size

    def take(self, size: int) -> None:
        """Take a part of it; give it back to `left`.

        Raises:
            QueueFull: so much is not left.
        """
        if size > self.left:
            raise QueueFull
        self.left -= size
