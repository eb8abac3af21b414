"""The shape of the code: which room imports which, one stem in every layer, short files."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.commands import ROOT

FILES = {
    str(path.relative_to(ROOT)): path.read_text() for path in sorted(ROOT.glob("service/**/*.py"))
}
SLICE = ("models", "domain", "schemas", "crud", "routers")
GROUND = ("models", "domain", "settings", "errors", "state", "__init__")
# The floors of the house, from the roof down. A room imports from lower floors and from itself.
FLOORS = (
    ("main", "cli"),
    ("routers",),
    ("schemas", "crud", "http"),
    ("access", "database"),
    ("observability", "server"),
    GROUND,
)
FLOOR_OF = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
# Imports within a floor, each with its reason.
WITHIN_A_FLOOR = {
    ("cli", "main"): "`items openapi` needs the application",
    ("http", "crud"): "an Idempotency-Key is stored in the transaction of its request",
    ("settings", "domain"): "API keys are parsed as a setting",
}
MAX_LINES = 250
BOUNDARY_ONLY = {"pydantic", "pydantic_core", "pydantic_settings", "fastapi", "starlette"}


def room_of(file: str) -> str:
    """Return the room of a file of the service: its folder, or its own name."""
    return file.split("/")[1].removesuffix(".py")


def files_of(*rooms: str) -> list[str]:
    return [file for file in FILES if room_of(file) in rooms]


def imports(file: str) -> Iterator[str]:
    """Yield the full names that a file imports at run time: `a.b` for `from a import b`."""
    tree = ast.parse(FILES[file])
    types_only = {
        node
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    for node in ast.walk(tree):
        if node in types_only:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def rooms_imported(file: str) -> set[str]:
    parts = [name.split(".") for name in imports(file) if name.startswith("service.")]
    return {part[1] for part in parts if part[1] != "__version__"} - {room_of(file)}


def stems(room: str) -> set[str]:
    return {Path(file).stem for file in files_of(room)} - {"__init__", "base"}


def test_every_room_has_a_floor_and_files() -> None:
    assert {room_of(file) for file in FILES} == FLOOR_OF.keys()


@pytest.mark.parametrize("file", list(FILES))
def test_imports_point_down(file: str) -> None:
    room = room_of(file)
    for other in rooms_imported(file):
        is_down = FLOOR_OF[other] > FLOOR_OF[room]
        assert is_down or (room, other) in WITHIN_A_FLOOR, f"{room} imports {other}"


def test_every_exception_is_in_use() -> None:
    used = {(room_of(file), other) for file in FILES for other in rooms_imported(file)}

    assert WITHIN_A_FLOOR.keys() <= used


@pytest.mark.parametrize("file", files_of("crud", "models", "domain"))
def test_the_inner_layers_import_neither_pydantic_nor_fastapi(file: str) -> None:
    assert {name.split(".")[0] for name in imports(file)} & BOUNDARY_ONLY == set()


@pytest.mark.parametrize("file", files_of("domain"))
def test_the_domain_uses_the_standard_library_only(file: str) -> None:
    known = {*sys.stdlib_module_names, "service"}

    assert {name.split(".")[0] for name in imports(file)} <= known


@pytest.mark.parametrize("file", files_of("crud"))
def test_crud_never_commits(file: str) -> None:
    called = {
        node.func.attr
        for node in ast.walk(ast.parse(FILES[file]))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    }

    assert called & {"commit", "rollback", "begin"} == set()


RESOURCES = sorted(stems("routers") & stems("models"))


@pytest.mark.parametrize("stem", RESOURCES)
def test_a_resource_has_the_same_stem_in_every_layer(stem: str) -> None:
    assert [layer for layer in SLICE if stem not in stems(layer)] == []


@pytest.mark.parametrize("layer", ["domain", "schemas", "crud"])
def test_what_resources_share_imports_none_of_them(layer: str) -> None:
    of_resources = tuple(f"/{stem}{part}.py" for stem in RESOURCES for part in ("", "_list"))
    shared = [file for file in files_of(layer) if not file.endswith(of_resources)]
    slices = [f"service.{room}.{stem}" for room in SLICE for stem in RESOURCES]

    for file in shared:
        assert [name for name in imports(file) if name.startswith(tuple(slices))] == [], file


def test_no_file_is_longer_than_250_lines() -> None:
    lengths = {file: len(source.splitlines()) for file, source in FILES.items()}

    assert {file: length for file, length in lengths.items() if length > MAX_LINES} == {}
