"""The memory of an application's processes, and how much of it they share."""

from dataclasses import dataclass

import psutil

from benchmarks.processes import MIB
from benchmarks.servers import Server


@dataclass(frozen=True, slots=True)
class Memory:
    """In MiB. PSS counts a page that n processes share as 1/n in each; only Linux knows it."""

    worker_rss: float  # of the average worker
    worker_pss: float | None
    all_pss: float | None  # of the master and the workers together


def memory(server: Server) -> Memory:
    """What the application's processes have now."""
    workers = server.master.children()
    rss = sum(worker.memory_info().rss for worker in workers) / MIB
    master_pss = _pss(server.master)
    if master_pss is None:
        return Memory(rss / len(workers), None, None)
    pss = sum(_pss(worker) or 0 for worker in workers)
    return Memory(rss / len(workers), pss / len(workers), master_pss + pss)


def _pss(process: psutil.Process) -> float | None:
    pss = getattr(process.memory_full_info(), "pss", None)
    return None if pss is None else pss / MIB
