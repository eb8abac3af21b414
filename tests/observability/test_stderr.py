"""Stderr: a reader that stands still costs lines of the log, and nothing else."""

import os
import select
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.observability.stderr import Stderr

LINE = b'{"event":"request"}\n'


@pytest.fixture(autouse=True)
def _not_redirected(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pytest redirects stderr; a service does not."""
    monkeypatch.setattr(sys, "__stderr__", sys.stderr)


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """The ends of a pipe, to read and to write."""
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


def fill(stderr: Stderr) -> int:
    """Write lines until one is dropped; return how many were not."""
    written = 0
    while not stderr.take_dropped():
        stderr.write(LINE)
        written += 1
    return written - 1


@pytest.mark.parametrize("is_own", [True, False], ids=["own", "of another user"])
def test_a_full_pipe_drops_lines_and_keeps_those_before(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch, is_own: bool
) -> None:
    reader, writer = pipe
    if not is_own:

        def refuse(*arguments: object) -> int:
            raise PermissionError

        monkeypatch.setattr(os, "open", refuse)
    stderr = Stderr(writer)
    written = fill(stderr)
    for _ in range(3):
        stderr.write(LINE)
    assert (stderr.take_dropped(), stderr.take_dropped()) == (3, 0)
    assert os.get_blocking(writer)  # other processes share it

    received = os.read(reader, written * len(LINE))
    stderr.write("again\n")
    received += os.read(reader, len(LINE) * 2)
    assert received == LINE * written + b"again\n"


def test_the_rest_of_a_long_line_comes_before_the_next(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    stderr = Stderr(writer)
    long = b"x" * 1_000_000 + b"\n"
    stderr.write(long)
    stderr.write(LINE)
    assert stderr.take_dropped() == 1

    received = b""
    while select.select([reader], [], [], 0)[0]:
        received += os.read(reader, 100_000)
        if len(received) < len(long):
            stderr.write(LINE)
    stderr.write(LINE)
    received += os.read(reader, 100_000)
    assert received.startswith(long)
    assert set(received[len(long) :].splitlines(keepends=True)) == {LINE}


def test_a_socket_is_written_without_waiting() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        stderr = Stderr(theirs.fileno())
        assert fill(stderr) > 0
        assert ours.recv(len(LINE)) == LINE


def test_a_reader_that_is_gone_is_no_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    stderr = Stderr(writer)
    stderr.write(LINE)
    os.close(writer)

    assert stderr.take_dropped() == 1


def test_a_file_is_appended_to_what_others_write(tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb", buffering=0) as file:
        stderr = Stderr(file.fileno())
        stderr.write("first\n")
        file.write(b"second\n")
        stderr.write("é\ud800\n")

    assert (tmp_path / "log").read_bytes() == "first\nsecond\né\\ud800\n".encode()
