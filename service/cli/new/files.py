"""Writing the files of a new resource, all or none."""

import shutil
import subprocess  # nosec B404
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from service.database.revision import ROOT

# Imports that no field of the resource needs, and the order of imports and of `__all__`.
FIXED = "F401,I,RUF022"


def check_git() -> None:
    """Check that `git checkout` could undo what is written.

    Raises:
        ValueError: there is no repository, or it has changes that are not committed.
    """
    status = run("git", "status", "--porcelain")
    if status.returncode != 0:
        raise ValueError("this is no git repository; run `git init`, and commit all files")
    if status.stdout:
        raise ValueError("there are changes that are not committed; commit or stash them first")


@contextmanager
def writing(files: Mapping[str, str]) -> Iterator[None]:
    """Write files, by path; restore what was there if the block fails.

    Raises:
        OSError: one cannot be written.
    """
    paths = {ROOT / file: text for file, text in files.items()}
    before = {path: path.read_bytes() if path.exists() else None for path in paths}
    folders = [path.parent for path in paths if not path.parent.exists()]
    try:
        for path, text in paths.items():
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        yield
    except BaseException:
        for path, content in before.items():
            if content is None:
                path.unlink(missing_ok=True)
            else:
                path.write_bytes(content)
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)
        raise


def tidy(files: list[str]) -> None:
    """Format files with ruff, if it is installed; remove unused imports and sort the others.

    Raises:
        ValueError: ruff refuses a file.
    """
    if (ruff := _program("ruff")) is None:
        return
    for arguments in (("check", "--quiet", "--fix", f"--select={FIXED}"), ("format", "--quiet")):
        done = run(ruff, *arguments, *files)
        if done.returncode != 0:
            raise ValueError(f"ruff failed: {_last_line(done)}")


def print_openapi() -> str:
    """Return the OpenAPI document of the service as it is now on disk.

    Raises:
        ValueError: the service does not start.
    """
    # In a process of its own, as this one has imported the files of before.
    done = run(sys.executable, "-c", "from service.cli import main; main()", "openapi")
    if done.returncode != 0:
        raise ValueError(f"the service does not start with the new files: {_last_line(done)}")
    return done.stdout


def _program(name: str) -> str | None:
    """Return the path of a program of this environment, or of the user's."""
    return shutil.which(name, path=Path(sys.executable).parent) or shutil.which(name)


def _last_line(done: subprocess.CompletedProcess[str]) -> str:
    return ((done.stderr or done.stdout).strip().splitlines() or [f"exit {done.returncode}"])[-1]


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)  # nosec B603
