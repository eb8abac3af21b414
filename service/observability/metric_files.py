"""The files in which workers count: one set for each worker slot instead of each process.

prometheus_client names its files by process id, and keeps those of dead processes, as their counts
still belong to the sum. They would pile up, and each scrape reads them all. A new worker takes a
free slot instead, and counts on in its files.
"""

from fcntl import LOCK_EX, LOCK_NB, flock
from functools import partial
from itertools import count
from pathlib import Path
from typing import IO

from prometheus_client import values
from prometheus_client.multiprocess import mark_process_dead

_locks: list[IO[str]] = []  # held open until the process ends; the kernel then frees the slot


def use_slot(directory: Path) -> None:
    """Take the lowest free slot of `directory` for the metrics that this process makes next."""
    slot = next(slot for slot in count() if _try_lock(directory / f"{slot}.lock"))
    values.ValueClass = values.MultiProcessValue(partial(str, slot))


def forget_dead_gauges(directory: Path) -> None:
    """Delete the gauges of slots that no process holds, such as requests in progress."""
    for path in directory.glob("*.lock"):
        if lock := _try_lock(path):
            mark_process_dead(path.stem, str(directory))
            _locks.remove(lock)
            lock.close()


def _try_lock(path: Path) -> IO[str] | None:
    file = path.open("a")
    try:
        flock(file, LOCK_EX | LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    _locks.append(file)
    return file
