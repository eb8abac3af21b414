"""What a run was made on: the machine, and the versions of what took part."""

import os
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import psutil

from service.settings import available_cores

PACKAGES = (
    "fastapi",
    "starlette",
    "pydantic",
    "uvicorn",
    "uvloop",
    "httptools",
    "gunicorn",
    "sqlalchemy",
    "asyncpg",
    "psycopg",
    "orjson",
    "structlog",
)


def describe() -> dict[str, str]:
    """Everything, by name, as a reader of the report needs it."""
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
