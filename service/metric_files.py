"""The files in which workers count: prometheus_client's, in its multiprocess mode.

What a worker counted stays when it ends. In a file of its own, though, that would be read with each
scrape for ever, and fill the memory that it is in.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from fcntl import LOCK_EX, LOCK_NB, LOCK_SH, flock
from pathlib import Path

from prometheus_client.mmap_dict import MmapedDict


@contextmanager
def unchanged(directory: Path) -> Iterator[None]:
    """While they are read, what is counted moves from no file to another."""
    with _locked(directory, LOCK_SH):
        yield


def join_dead(directory: Path) -> None:
    """Add up what was counted by processes that are gone, in one file of each kind.

    What is being read just now is left for the next time.
    """
    try:
        with _locked(directory, LOCK_EX | LOCK_NB):
            for file in directory.glob("*.db"):
                kind, _, process = file.stem.rpartition("_")
                if process.isdecimal() and not _is_alive(int(process)):
                    if kind in ("counter", "histogram") and file.stat().st_size:
                        _add(file, directory / f"{kind}_dead.db")
                    file.unlink()  # a gauge tells of the living
    except BlockingIOError:
        pass


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


# prometheus_client has types in part only.
def _add(file: Path, total: Path) -> None:
    sums = MmapedDict(total)  # type: ignore[no-untyped-call]
    for key, value, timestamp, _ in MmapedDict.read_all_values_from_file(file):  # type: ignore[no-untyped-call]
        sums.write_value(key, sums.read_value(key)[0] + value, timestamp)  # type: ignore[no-untyped-call]
    sums.close()  # type: ignore[no-untyped-call]


@contextmanager
def _locked(directory: Path, how: int) -> Iterator[None]:
    with (directory / "lock").open("a") as file:
        flock(file, how)
        yield
