"""The Gunicorn worker: uvicorn's, on the fastest parts, and told to end in time."""

import gc
from typing import Any

from uvicorn_worker import UvicornWorker

from service.transport import ServiceProtocol

# Objects made, and collections of each younger generation, before one looks for cycles. A request
# makes hardly any cycle, and Python's defaults look hundreds of times a second.
GC_THRESHOLDS = (50_000, 20, 50)


class Worker(UvicornWorker):
    """Passes Gunicorn's grace on to uvicorn.

    Without it uvicorn waits for requests in flight for as long as they take: Gunicorn then kills
    the worker in the midst of them, and its lifespan never ends.
    """

    # Not a ClassVar: the base class declares it for its instances.
    CONFIG_KWARGS = {  # noqa: RUF012
        "loop": "uvloop",
        "http": ServiceProtocol,
        "access_log": False,
        "server_header": False,
    }

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Two seconds less, for the lifespan's end.
        self.config.timeout_graceful_shutdown = max(1, self.cfg.graceful_timeout - 2)

    def load_wsgi(self) -> None:
        """Load the application, and spare the collector what that made: it lives on anyway."""
        # Gunicorn has no types.
        super().load_wsgi()  # type: ignore[no-untyped-call]
        gc.collect()
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLDS)
