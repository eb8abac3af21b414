"""The files in which workers count: prometheus_client's, in its multiprocess mode.

What a worker counted stays when it ends. In a file of its own, though, that would be read with each
scrape for ever, and fill the memory that it is in.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fcntl import LOCK_EX, LOCK_NB, LOCK_SH, flock
from pathlib import Path

from prometheus_client.mmap_dict import MmapedDict

KINDS = ("counter", "histogram")  # of which the numbers of all processes are added up


@contextmanager
def unchanged(directory: Path) -> Iterator[None]:
    """While they are read, what is counted moves from no file to another."""
    with _locked(directory, LOCK_SH):
        yield


def join_dead(directory: Path) -> None:
    """Add up what was counted by processes that are gone, in one file of each kind.

    While a scrape is under way it does nothing: the next time is early enough.

    Raises:
        OSError: there is no room for that file, say; the others stay as they are.
    """
    try:
        with _locked(directory, LOCK_EX | LOCK_NB):
            for kind in KINDS:
                if dead := [file for file in directory.glob(f"{kind}_*.db") if _is_of_dead(file)]:
                    _join(dead, directory / f"{kind}_dead.db")
    except BlockingIOError:
        pass


def _is_of_dead(file: Path) -> bool:
    process = file.stem.rpartition("_")[2]
    if not process.isdecimal():
        return False
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return False


def _join(files: Iterable[Path], total: Path) -> None:
    # One that is empty was made by a worker that was killed before it counted.
    if parts := [file for file in (total, *files) if file.exists() and file.stat().st_size]:
        new = total.with_suffix(".new")
        # All the room first: a store through the mapping, where there is none, would be a SIGBUS.
        new.write_bytes(bytes(sum(file.stat().st_size for file in parts)))
        _add_up(parts, new)
        new.replace(total)
    for file in files:
        file.unlink()


def _add_up(parts: Iterable[Path], total: Path) -> None:
    sums = MmapedDict(total)
    for part in parts:
        for key, value, timestamp, _ in MmapedDict.read_all_values_from_file(part):
            sums.write_value(key, sums.read_value(key)[0] + value, timestamp)
    sums.close()


@contextmanager
def _locked(directory: Path, how: int) -> Iterator[None]:
    with (directory / "lock").open("a") as file:
        flock(file, how)
        yield
