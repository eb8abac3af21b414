"""`items new`: what it writes, and what it refuses."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from service.cli.new import command, files, wiring
from service.cli.new import resource as names
from service.cli.new.fields import parse_fields
from service.cli.new.resource import NewResource
from service.cli.new.slice import slice_of
from tests.support.commands import ROOT, items

ITEM_FIELDS = ["name:text", "description:text?", "price:price?", "is_active:bool"]
ITEM_EXAMPLES = {"name": "Desk lamp", "description": "Warm light, 40 cm"}


def git(folder: Path, *arguments: str) -> str:
    """Run git as a user with a name; return what it prints."""
    user = ("-c", "user.name=tester", "-c", "user.email=tester@localhost")
    ran = subprocess.run(
        ["git", *user, *arguments], cwd=folder, capture_output=True, text=True, check=True
    )
    return ran.stdout


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with the files of this one, as they are now."""
    folder = tmp_path_factory.mktemp("clone")
    ignore = shutil.ignore_patterns("__pycache__")
    for name in ("service", "migrations", "docker", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignore)
    for name in ("pyproject.toml", "alembic.ini", "openapi.json", ".gitignore"):
        shutil.copy(ROOT / name, folder)
    git(folder, "init", "--quiet")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message=All")
    return folder


@pytest.fixture
def repository(clone: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The repository that the command in this process writes to; clean again after the test."""
    for module in (command, files, names, wiring):
        monkeypatch.setattr(module, "ROOT", clone)
    monkeypatch.setenv("PYTHONPATH", str(clone))
    yield clone
    git(clone, "checkout", "--quiet", ".")
    git(clone, "clean", "--quiet", "--force", "-d")


def new(*arguments: str) -> str:
    """Run the command, which must fail with one line; return that line."""
    ran = items("new", *arguments)
    assert ran.exit_code == 1, ran.output
    assert ran.stdout == ""
    assert ran.stderr.startswith("Error: ")
    assert ran.stderr.count("\n") == 1
    return ran.stderr


def test_the_slice_of_items_is_what_the_command_writes() -> None:
    """Who makes items their own deletes this test, or changes the templates alike."""
    fields = [
        replace(field, example=ITEM_EXAMPLES.get(field.name, field.example))
        for field in parse_fields(ITEM_FIELDS)
    ]
    for file, text in slice_of(NewResource("item", "items", fields)).items():
        for arguments in (["check", "--fix-only", f"--select={files.FIXED}"], ["format"]):
            ruff = str(Path(sys.executable).parent / "ruff")
            text = subprocess.run(
                [ruff, *arguments, "--quiet", f"--stdin-filename={file}", "-"],
                cwd=ROOT,
                input=text,
                capture_output=True,
                text=True,
                check=True,
            ).stdout
        assert text == (ROOT / file).read_text(), f"{file} differs from its template"


def test_the_command_writes_every_layer_its_wiring_a_migration_and_tests(repository: Path) -> None:
    ran = items("new", "zebra", "--field", "name:text", "--field", "age:int?")
    changed = git(repository, "status", "--porcelain", "--untracked-files=all").splitlines()

    assert ran.exit_code == 0, ran.output
    assert sorted(ran.stdout.splitlines()) == sorted(line[3:] for line in changed)
    assert len(changed) == 16
    assert '"/zebras/{zebra_id}"' in (repository / "openapi.json").read_text()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["zebra"], "at least one --field"),
        (["Zebra", "--field=a:int"], "'Zebra' should be lower-case"),
        (["zebra-line", "--field=a:int"], "'zebra-line' should be lower-case"),
        (["class", "--field=a:int"], "'class' is a keyword"),
        (["item", "--field=a:int"], "service/models/item.py exists"),
        (["setting", "--field=a:int"], "'settings' is a name that the code uses"),
        (["page", "--field=a:int"], "'page' is a name that the code uses"),
        (["idempotency", "--field=a:int"], "service/models/idempotency.py exists"),
        (["zebra", "--plural=items", "--field=a:int"], "tests/items exists"),
        (["zebra", "--plural=idempotency_keys", "--field=a:int"], "there is a table"),
        (["metric", "--field=a:int"], "the service has a path /metrics"),
        (["zebra", "--plural=zebra", "--field=a:int"], "must differ"),
        (["zebra", "--plural=user", "--field=a:int"], "'user' is a reserved word"),
        (["t" * 21, "--field=a:int"], "longer than 20 characters"),
        (["zebra", "--field=a"], "'a' should be NAME:KIND; kinds are text, int"),
        (["zebra", "--field=a:float"], "'a:float' should be NAME:KIND"),
        (["zebra", "--field=A:int"], "'A' should be lower-case"),
        (["zebra", "--field=lambda:int"], "'lambda' is a keyword"),
        (["zebra", "--field=desc:int"], "'desc' is a reserved word"),
        (["zebra", "--field=json:int"], "'json' is an attribute"),
        (["zebra", "--field=datetime:time"], "'datetime' is a name that the code uses"),
        (["zebra", "--field=a:int", "--field=a:text"], "'a' is repeated"),
        (["zebra", "--field=a:int", "--field=a_min:bool"], "would be called 'a_min'"),
        (["zebra", "--field=a:int?", "--field=a_key:int"], "would have one index name"),
        (["zebra", "--field=created:time"], "would be called 'created_after'"),
        (["zebra", "--field=is_active:text"], "'is_active' should be a bool"),
        (["zebra", "--field=is_active:bool?"], "'is_active' should be a bool"),
        *(
            (["zebra", f"--field={name}:int"], f"'{name}' is a column or a parameter")
            for name in (
                *("id", "version", "created_at", "updated_at", "q", "sort", "page", "cursor"),
                *("count", "per_page", "format"),
            )
        ),
    ],
    ids=str,
)
def test_a_wrong_or_taken_name_is_refused_and_nothing_changes(
    repository: Path, arguments: list[str], reason: str
) -> None:
    assert reason in new(*arguments)
    assert git(repository, "status", "--porcelain") == ""


def test_uncommitted_changes_are_refused(repository: Path) -> None:
    (repository / "note.txt").write_text("")

    assert "commit or stash them first" in new("zebra", "--field=a:int")


def test_a_folder_that_is_no_repository_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "ROOT", tmp_path)

    assert "no git repository" in new("zebra", "--field=a:int")


def test_a_file_without_the_place_of_a_new_line_is_refused(repository: Path) -> None:
    state = repository / "service/state.py"
    state.write_text(state.read_text().replace("def state_of(", "def the_state_of("))
    git(repository, "commit", "--quiet", "--all", "--message=Rename")

    assert "service/state.py no longer has 'def state_of('" in new("zebra", "--field=a:int")
    assert git(repository, "status", "--porcelain") == ""
    git(repository, "reset", "--quiet", "--hard", "HEAD~")


@pytest.mark.parametrize("step", ["tidy", "print_openapi"])
def test_a_failed_step_undoes_what_was_written(
    repository: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def fail(*arguments: object) -> None:
        assert (repository / "service/models/zebra.py").exists()
        raise ValueError("failed")

    monkeypatch.setattr(command, step, fail)

    assert "failed" in new("zebra", "--field=a:int")
    assert git(repository, "status", "--porcelain", "--ignored=no") == ""
    assert not (repository / "tests/zebras").exists()


def test_a_service_that_does_not_start_undoes_what_was_written(repository: Path) -> None:
    (repository / "service/settings.py").write_text("import nothing_like_it\n")
    git(repository, "commit", "--quiet", "--all", "--message=Break")

    assert "does not start with the new files" in new("zebra", "--field=a:int")
    assert git(repository, "status", "--porcelain") == ""
    git(repository, "reset", "--quiet", "--hard", "HEAD~")


def test_the_command_works_without_ruff(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_program", lambda name: None)

    assert items("new", "zebra", "--field", "a:int").exit_code == 0
    assert (repository / "service/crud/zebra.py").exists()
