"""Documented commands, run in an environment without settings of the service."""

import gc
import os
import subprocess
import sys
from io import StringIO
from pathlib import Path
from typing import Any
from unittest.mock import patch

from alembic import command as alembic_commands
from alembic.config import Config
from click.testing import CliRunner, Result

from service.cli import main
from service.database.revision import ALEMBIC_INI
from service.observability.logs import configure_logging
from service.settings import Settings, get_settings

ROOT = Path(__file__).parents[2]
# With these, coverage would trace child processes, which slows their start and takes memory.
TRACING = ("COVERAGE_PROCESS_START", "COVERAGE_PROCESS_CONFIG")


def clean_environment() -> dict[str, str]:
    """Return this process's environment without the service's settings."""
    settings = {name.upper() for name in Settings.model_fields}
    return {name: value for name, value in os.environ.items() if name.upper() not in settings}


def run(*command: str, env: dict[str, str], check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a console script of the virtual environment from the project's root."""
    program = Path(sys.executable).parent / command[0]
    return subprocess.run(
        [str(program), *command[1:]],
        cwd=ROOT,
        env=clean_environment() | env,
        capture_output=True,
        text=True,
        timeout=120,
        check=check,
    )


def items(*arguments: str, env: dict[str, str] | None = None) -> Result:
    """Run an `items` command in this process, with no settings but those of `env`."""
    get_settings.cache_clear()
    gc.freeze()  # the collection below then only examines objects of the command
    try:
        with patch.dict(os.environ, clean_environment() | (env or {}), clear=True):
            result = CliRunner().invoke(main, arguments, prog_name="items", catch_exceptions=False)
        # A connection that the command did not close would warn now, which is an error.
        result.exception = result.exc_info = None
        gc.collect()
        return result
    finally:
        gc.unfreeze()
        get_settings.cache_clear()
        # A migration directed the log to the runner's stderr, which is closed now.
        configure_logging(Settings.model_construct())


def alembic(url: str, name: str, *arguments: Any, ini: Path = ALEMBIC_INI, **options: Any) -> str:
    """Run an Alembic command in this process; return what it prints."""
    output = StringIO()
    get_settings.cache_clear()
    try:
        with patch.dict(os.environ, clean_environment() | {"DATABASE_URL": url}, clear=True):
            config = Config(ini, stdout=output, output_buffer=output)
            getattr(alembic_commands, name)(config, *arguments, **options)
    finally:
        get_settings.cache_clear()
    return output.getvalue()
