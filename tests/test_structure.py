"""The structure of the code: imports point one way, layers have the same stems, files are short."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.commands import ROOT

FILES = {
    str(path.relative_to(ROOT)): path.read_text() for path in sorted(ROOT.glob("service/**/*.py"))
}
LAYERS = ("models", "schemas", "domain", "crud", "routers")
# Imports point one way: main -> routers -> {schemas, crud} -> {models, domain}.
MAY_IMPORT = {
    "models": {"models"},
    "domain": {"domain"},
    "crud": {"crud", "models", "domain"},
    "schemas": {"schemas", "models", "domain"},
    "routers": {"routers", "schemas", "crud", "domain"},
}
BOUNDARY_ONLY = {"pydantic", "pydantic_core", "pydantic_settings", "fastapi", "starlette"}


def imports(source: str) -> Iterator[str]:
    """Yield the full name of each import in a file: `a.b` for `from a import b`."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def files_of(*layers: str) -> list[str]:
    return [file for file in FILES if file.split("/")[1] in layers]


def service_imports(file: str) -> set[str]:
    """Return the layers, and the modules beside them, that a file imports."""
    return {name.split(".")[1] for name in imports(FILES[file]) if name.startswith("service.")}


def stems(layer: str) -> set[str]:
    return {Path(file).stem for file in files_of(layer)} - {"__init__", "base"}


@pytest.mark.parametrize("file", files_of(*LAYERS))
def test_a_layer_imports_only_the_layers_below(file: str) -> None:
    layer = file.split("/")[1]
    imported = service_imports(file)
    if layer == "routers":  # the others import nothing beside the layers
        imported &= set(LAYERS)

    assert imported <= MAY_IMPORT[layer]


def test_only_main_imports_the_routers_and_only_commands_import_main() -> None:
    for file in FILES:
        if not file.startswith("service/routers/"):
            assert ("routers" in service_imports(file)) == (file == "service/main.py"), file
        if not file.startswith("service/cli/"):
            assert "main" not in service_imports(file), file


@pytest.mark.parametrize("file", files_of("crud", "models", "domain"))
def test_the_inner_layers_import_neither_pydantic_nor_fastapi(file: str) -> None:
    assert {name.split(".")[0] for name in imports(FILES[file])} & BOUNDARY_ONLY == set()


@pytest.mark.parametrize("file", files_of("domain"))
def test_the_domain_imports_the_standard_library_only(file: str) -> None:
    known = {*sys.stdlib_module_names, "service"}

    assert {name.split(".")[0] for name in imports(FILES[file])} <= known


@pytest.mark.parametrize("file", files_of("crud"))
def test_crud_never_commits(file: str) -> None:
    called = {
        node.func.attr
        for node in ast.walk(ast.parse(FILES[file]))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    }

    assert called & {"commit", "rollback", "begin"} == set()


def test_a_resource_has_the_same_stem_in_every_layer() -> None:
    resources = stems("routers") & stems("models")

    assert resources >= {"item"}
    for layer in LAYERS:
        assert resources <= stems(layer), layer


def test_a_file_has_at_most_300_lines() -> None:
    assert [file for file, text in FILES.items() if len(text.splitlines()) > 300] == []
