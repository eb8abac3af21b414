"""Processes: one that runs for a set time, and what a tree of them has used."""

import resource
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

import click
import psutil

OPEN_FILES = 8192
GRACE = 60  # seconds past its time after which a command is ended

MIB = 1024 * 1024

# Guests' time is in `user` already.
IDLE = {"idle", "iowait", "guest", "guest_nice"}


def raise_file_limit() -> None:
    """Let this process and those it starts hold thousands of connections open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < OPEN_FILES:
        wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def run_for(
    seconds: float,
    command: Sequence[str],
    midway: Callable[[], None],
    environment: Mapping[str, str] | None = None,
) -> str:
    """Run a command that takes `seconds`; call `midway` when half of them have passed.

    Returns:
        What it wrote to stdout.

    Raises:
        ClickException: it failed, or did not end in time.
    """
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        try:
            try:
                output, errors = process.communicate(timeout=seconds / 2)
            except subprocess.TimeoutExpired:
                midway()
                output, errors = process.communicate(timeout=seconds + GRACE)
        except subprocess.TimeoutExpired:
            raise click.ClickException(f"{command[0]} did not end in time") from None
        finally:
            process.kill()
    if process.returncode:
        raise click.ClickException(f"{command[0]} failed: {errors.strip()}")
    return output


def cpu_seconds(root: psutil.Process) -> float:
    """CPU time, user and system, of a process, its descendants, and its children that ended."""
    times = root.cpu_times()
    total = times.user + times.system + times.children_user + times.children_system
    for process in root.children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system
    return float(total)


def ended_seconds() -> float:
    """CPU time of the processes that this one started and that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def busy_seconds() -> float:
    """CPU time of everything on the machine, with what the hypervisor took from it."""
    times = psutil.cpu_times()._asdict()
    return float(sum(times[name] for name in times if name not in IDLE))


def largest_child(root: psutil.Process) -> float:
    """Resident memory, in MiB, of the process's largest child."""
    return max(child.memory_info().rss for child in root.children()) / MIB
