"""The garbage collector as the service has it, in service/worker.py."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

from service.server.worker import GC_THRESHOLDS


@contextmanager
def tuned_collector() -> Iterator[None]:
    """What there is now out of the collector's sight, and what comes looked through less often."""
    default = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    try:
        yield
    finally:
        gc.set_threshold(*default)
        gc.unfreeze()
