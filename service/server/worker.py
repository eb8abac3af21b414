"""The Gunicorn worker: uvicorn's, with our protocol, uvloop and Gunicorn's graceful timeout."""

import gc
from typing import Any

from uvicorn_worker import UvicornWorker

from service.server.protocol import ServiceProtocol

# Allocations, and collections of the younger generation, before each generation is collected. A
# request makes hardly any reference cycles; Python's defaults collect hundreds of times a second.
GC_THRESHOLDS = (50_000, 20, 50)


class Worker(UvicornWorker):
    """Passes Gunicorn's graceful timeout on to uvicorn.

    uvicorn would otherwise wait for requests without limit: Gunicorn kills the worker during them,
    and its lifespan does not end.
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
        # Two seconds less, for the end of the lifespan.
        self.config.timeout_graceful_shutdown = max(1, self.cfg.graceful_timeout - 2)

    def load_wsgi(self) -> None:
        """Load the application, and exclude its objects, which live forever, from collections."""
        # Gunicorn has no types.
        super().load_wsgi()  # type: ignore[no-untyped-call]
        gc.collect()
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLDS)
