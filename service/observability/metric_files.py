"""The files in which workers count: one set for each worker slot instead of each process.

prometheus_client names its files by process id, and keeps those of dead processes, as their counts
still belong to the sum. They would pile up, and each scrape reads them all. A new worker takes a
free slot instead, and counts on in its files.
"""

import atexit
import os
import shutil
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from fcntl import LOCK_EX, LOCK_NB, flock
from functools import cache, partial
from itertools import count
from pathlib import Path
from typing import IO

from prometheus_client import values
from prometheus_client.multiprocess import mark_process_dead

PREFIX = "items-metrics-"
MEMORY = Path("/dev/shm")  # nosec B108

_locks: list[IO[str]] = []  # held open until the process ends; the kernel then frees the slot


def memory_folder() -> Path:
    """Return a folder in memory, or that of temporary files if there is none to write to."""
    with suppress(OSError), tempfile.TemporaryFile(dir=MEMORY):
        return MEMORY
    return Path(tempfile.gettempdir())


@cache
def make_folder() -> Path:
    """Make a private folder for this process and its workers, which is deleted at its end.

    A process that reads its configuration again gets the same folder.
    """
    parent = memory_folder()
    _delete_abandoned({parent, Path(tempfile.gettempdir())})
    # Locked before it has the name that others look for.
    new = Path(tempfile.mkdtemp(prefix=f".{PREFIX}", dir=parent))
    folder = parent / new.name.removeprefix(".")
    _lock_folder(new)
    new.rename(folder)
    maker = os.getpid()

    def delete() -> None:
        if os.getpid() == maker:  # workers inherit this function
            shutil.rmtree(folder, ignore_errors=True)

    atexit.register(delete)
    return folder


def _delete_abandoned(parents: Iterable[Path]) -> None:
    """Delete the folders of processes that were killed."""
    for parent in parents:
        for folder in parent.glob(f"{PREFIX}*"):
            with suppress(OSError):  # in use, or another user's
                fd = _lock_folder(folder)
                try:
                    # Earlier versions lock the slots only.
                    if not any(_is_locked(slot) for slot in folder.glob("*.lock")):
                        shutil.rmtree(folder, ignore_errors=True)
                finally:
                    os.close(fd)


def _lock_folder(folder: Path) -> int:
    """Lock a folder; return the descriptor that holds the lock, also in child processes.

    Raises:
        OSError: another process holds it, or the folder belongs to another user.
    """
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        flock(fd, LOCK_EX | LOCK_NB)
    except OSError:
        os.close(fd)
        raise
    return fd


def use_slot(directory: Path) -> None:
    """Take the lowest free slot of `directory` for the metrics that this process makes next."""
    slot = next(slot for slot in count() if _try_lock(directory / f"{slot}.lock"))
    mark_process_dead(slot, str(directory))  # the gauges of the process before
    values.ValueClass = values.MultiProcessValue(partial(str, slot))


def forget_dead_gauges(directory: Path) -> None:
    """Delete the gauges of slots that no process holds, such as requests in progress."""
    for path in directory.glob("*.lock"):
        if lock := _try_lock(path):
            mark_process_dead(path.stem, str(directory))
            _unlock(lock)


def _is_locked(path: Path) -> bool:
    """Return whether a process holds a slot."""
    if lock := _try_lock(path):
        _unlock(lock)
    return lock is None


def _unlock(lock: IO[str]) -> None:
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
