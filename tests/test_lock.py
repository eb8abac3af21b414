"""The lock file that the image installs agrees with pyproject.toml and with the environment."""

import re
import tomllib
from importlib.metadata import version

import pytest
from packaging.requirements import Requirement

from tests.support.commands import ROOT

LOCK = (ROOT / "requirements.lock").read_text()
DEPENDENCIES = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
# A requirement begins a line; each of its hashes has a line of its own.
PIN = re.compile(r"^(\w\S+==.+?)((?: \\\n +--hash=sha256:[0-9a-f]{64})*)$", re.MULTILINE)
PINS = [Requirement(found[1]) for found in PIN.finditer(LOCK)]
# The pins for the Python and the system that run the tests.
HERE = {pin.name: pin for pin in PINS if pin.marker is None or pin.marker.evaluate()}


@pytest.mark.parametrize("dependency", DEPENDENCIES)
def test_every_dependency_is_locked_within_its_range(dependency: str) -> None:
    wanted = Requirement(dependency)
    assert wanted.specifier.contains(exact(HERE[wanted.name]))


def test_the_tests_run_on_the_locked_versions() -> None:
    locked = {name: exact(pin) for name, pin in HERE.items()}
    assert locked == {name: version(name) for name in locked}


def test_every_package_has_hashes() -> None:
    packages = re.findall(r"^\w.*", LOCK, re.MULTILINE)
    assert [found[0] for found in PIN.finditer(LOCK) if not found[2]] == []
    assert len(packages) == len(PINS)


def test_the_lock_names_no_package_index() -> None:
    assert "://" not in LOCK
    assert "index" not in LOCK


def exact(pin: Requirement) -> str:
    (specifier,) = pin.specifier
    assert specifier.operator == "=="
    return specifier.version
