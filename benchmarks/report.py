"""The reports: Markdown tables, what they were measured on, and the files."""

import json
import os
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

from service.settings import available_cores

PACKAGES = (
    *("fastapi", "starlette", "pydantic", "uvicorn", "uvloop", "httptools", "gunicorn"),
    *("sqlalchemy", "asyncpg", "psycopg", "orjson", "structlog"),
)


def table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table whose columns line up as plain text; numbers stand on the right."""
    columns = list(zip(headers, *rows, strict=True))
    widths = [max(3, *map(len, column)) for column in columns]
    numeric = [all(cell[:1] in "-+0123456789" for cell in cells) for _, *cells in columns]
    rules = [
        "-" * (width - 1) + (":" if right else "-")
        for width, right in zip(widths, numeric, strict=True)
    ]
    return "\n".join(
        "| " + " | ".join(map(_pad, cells, widths, numeric)) + " |"
        for cells in (headers, rules, *rows)
    )


def _pad(cell: str, width: int, is_numeric: bool) -> str:
    return cell.rjust(width) if is_numeric else cell.ljust(width)


def write(folder: Path, name: str, report: str, data: Any) -> None:
    """Write `name`.md and the raw `data` as `name`.json into `folder`, and print the report."""
    (folder / f"{name}.md").write_text(report)
    (folder / f"{name}.json").write_text(json.dumps(data, indent=1) + "\n")
    print(report)
    print(f"The report is {os.path.relpath(folder / name)}.md")


def machine() -> dict[str, str]:
    """Return what this machine is, and the versions of the packages."""
    return {
        "Measured": f"{datetime.now(UTC):%d %B %Y}",
        "Processor": _processor(),
        "Cores": str(available_cores()),
        "Memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "System": f"{platform.system()} {platform.release()}, {platform.machine()}",
        "Load average before": f"{os.getloadavg()[0]:.2f}",
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
        "Packages": ", ".join(f"{name} {version(name)}" for name in PACKAGES),
    }


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
