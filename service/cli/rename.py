"""The command that gives the project another name than that of its first resource."""

import re
from pathlib import Path

import click

from service.cli.new.files import check_git, run
from service.database.revision import ROOT

NAME = re.compile(r"[a-z][a-z0-9]{1,19}")
COMMANDS = "dev|import|key|migrate|new|openapi|purge|rename|revision|seed|serve"
# What has the project's name, and what takes its place. The resource `items` keeps its own.
RULES = (
    # Package, images, the kinds of problems, application_name, the role of the service.
    (r"\bitems-service\b", "{name}-service"),
    (r"\bitems_service\b", "{name}_service"),
    # The console script, in texts, in lists of arguments, and where it is installed.
    (rf"(?<![\w/.'\"-])items(?= (?:{COMMANDS})\b)", "{name}"),
    (rf"(['\"])items\1(?=, ['\"](?:{COMMANDS})['\"])", r"\1{name}\1"),
    (rf"\[items(?=, (?:{COMMANDS})\])", "[{name}"),
    (r'(?m)^items(?= = "service\.cli:main"$)', "{name}"),
    (r"(?<=bin/)items\b", "{name}"),
    (r'(?<=parent / ")items(?=")', "{name}"),
    (r"(?<=`)items(?=` command)", "{name}"),
    (r'(?<=prog_name=")items(?=")', "{name}"),
    (r"(?<=Usage: )items\b", "{name}"),
    # The database and its owner.
    (r"(?<=POSTGRES_DB: )items\b", "{name}"),
    (r"(?<=POSTGRES_USER: )items\b", "{name}"),
    (r"(postgresql(?:\+asyncpg)?://)items(?=[:@])", r"\1{name}"),
    (r"(postgresql://[^\s/\"'`]+/)items\b", r"\1{name}"),
    (r'(?<=database == ")items(?=")', "{name}"),
    (r"(--(?:username|dbname)[ =])items\b", r"\1{name}"),
    # The prefix of API keys, and the realm of their challenge.
    (r'(?<=PREFIX = ")items_(?=")', "{name}_"),
    (r"\bitems_(?=…|hunter2|[A-Za-z0-9_-]{40}|\[A-Z)", "{name}_"),
    (r'(?<=realm=")items(?=")', "{name}"),
    # The metrics' job and files.
    (r'(?<=job=")items(?=")', "{name}"),
    (r"(?<=job: )items\b", "{name}"),
    (r"(?<=job_name: )items\b", "{name}"),
    (r"\bitems-(?=metrics\b)", "{name}-"),
)


@click.command()
@click.argument("name")
def rename(name: str) -> None:
    """Give the project another name: NAME-service, with the command NAME.

    It changes the package, the console script, images, the database and its roles, the prefix of
    API keys, the realm, the kinds of problems, and the metrics' job. The resource `items` stays.
    Existing databases, keys and dashboards have the old name.
    """
    if not NAME.fullmatch(name):
        raise click.ClickException("A name has 2 to 20 lower-case letters and digits")
    try:
        check_git()
    except ValueError as exc:
        raise click.ClickException(str(exc)) from None
    changed = [path for path in _files() if _rewrite(path, name)]
    click.echo(f"Changed {len(changed)} files. Now run: uv sync && uv run pytest", err=True)


def _files() -> list[Path]:
    """Return the files of the repository but the lock, which `uv pip compile` writes."""
    listed = run("git", "ls-files", "-z").stdout
    return [ROOT / name for name in listed.split("\0") if name and Path(__file__) != ROOT / name]


def _rewrite(path: Path, name: str) -> bool:
    try:
        old = path.read_text()
    except UnicodeDecodeError:
        return False
    new = old
    for pattern, replacement in RULES:
        new = re.sub(pattern, replacement.format(name=name), new)
    if new == old:
        return False
    path.write_text(new)
    return True
