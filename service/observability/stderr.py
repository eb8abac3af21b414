"""Write to stderr without waiting for its reader.

A reader of the log that stands still would otherwise stop the service as soon as the pipe is full,
and even its end. Lines are dropped and counted instead.
"""

import os
import select
import socket
import stat
import sys
from collections.abc import Callable
from functools import partial
from threading import Lock


class Stderr:
    """A file of text and bytes, each write of which is one or more lines.

    Args:
        fd: the file descriptor.
    """

    def __init__(self, fd: int = 2) -> None:
        self._fd = fd
        self._dropped = 0
        self._send: Callable[[bytes], int] | None = None
        self._rest = b""  # of a line that was sent in part
        self._lock = Lock()
        os.register_at_fork(after_in_child=self._forget_rest)

    def write(self, line: str | bytes) -> int:
        """Write `line`, or drop it if it would have to wait."""
        data = line if isinstance(line, bytes) else line.encode(errors="backslashreplace")
        if sys.stderr is not sys.__stderr__:  # redirected within this process
            sys.stderr.buffer.write(data)
            sys.stderr.buffer.flush()
            return len(line)
        with self._lock:
            try:
                send = self._send = self._send or _nonblocking(self._fd)
                if self._rest:
                    self._rest = self._rest[send(self._rest) :]
                if self._rest:
                    self._dropped += 1
                elif (sent := send(data)) < len(data):
                    self._rest = data[sent:]
            except OSError:  # the pipe is full, the disk is full, or the reader is gone
                self._dropped += 1
        return len(line)

    def flush(self) -> None:
        """Do nothing: a write is sent at once."""

    def take_dropped(self) -> int:
        """Return the number of lines that were dropped since the last call."""
        dropped, self._dropped = self._dropped, 0
        return dropped

    def _forget_rest(self) -> None:
        self._rest = b""  # the parent process sends it


def _nonblocking(fd: int) -> Callable[[bytes], int]:
    """Return a function that writes what `fd` takes at once, and returns its size.

    Raises:
        BlockingIOError: the function does, if it takes nothing.
    """
    mode = os.fstat(fd).st_mode
    if stat.S_ISSOCK(mode):  # systemd's journal
        sock = socket.socket(fileno=os.dup(fd))
        return lambda data: sock.send(data, socket.MSG_DONTWAIT)
    if not (stat.S_ISFIFO(mode) or stat.S_ISCHR(mode)):
        return partial(os.write, fd)
    try:
        # Opened again, because O_NONBLOCK belongs to an open file, which other processes share.
        again = os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError:  # not Linux, or the pipe of another user
        return partial(_write_if_ready, fd)
    return partial(os.write, again)


def _write_if_ready(fd: int, data: bytes) -> int:
    """Write a part of `data` that a pipe takes at once, if no other process fills it just now."""
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    if not poll.poll(0):
        raise BlockingIOError
    return os.write(fd, data[: select.PIPE_BUF])


stderr = Stderr()
