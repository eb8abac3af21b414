"""The command `items new`, which writes the files of a new resource."""

import secrets
from datetime import UTC, datetime

import click

from service.cli.new.fields import KINDS, parse_fields
from service.cli.new.files import check_git, print_openapi, tidy, writing
from service.cli.new.resource import NewResource, check_names, names_read, names_used
from service.cli.new.slice import Files, migration_of, slice_of, tests_of
from service.cli.new.wiring import MAIN, STATE, wiring_of
from service.database.revision import ROOT, load_revisions

OPENAPI = "openapi.json"
CLASSES = ("models", "domain", "schemas")  # the layers with a class that has the fields
# A resource with names that no other has, to find the names that the new files use themselves.
SAMPLE = NewResource(
    "zz",
    "zzs",
    parse_fields(
        [*(f"zz_{kind}:{kind}" for kind in KINDS), *(f"zz_no_{kind}:{kind}?" for kind in KINDS)]
    ),
)


@click.command("new")
@click.argument("name")
@click.option(
    "--field",
    "fields",
    multiple=True,
    metavar="NAME:KIND",
    help=f"A field; KIND is {', '.join(KINDS)}. `note:text?` may be null.",
)
@click.option("--plural", help="The plural of NAME  [NAME and an s]")
def new_resource(name: str, fields: tuple[str, ...], plural: str | None) -> None:
    """Write the files of a new resource NAME, such as order: every layer, a migration and tests.

    The git repository must have no uncommitted changes. An error leaves every file as it was.
    """
    try:
        check_git()
        resource = NewResource(name, plural or f"{name}s", parse_fields(fields))
        check_names(resource, *_names_in_use())
        files = _files_of(resource)
        with writing(files):
            tidy([file for file in files if file.endswith(".py")])
            files[OPENAPI] = print_openapi()
            (ROOT / OPENAPI).write_text(files[OPENAPI])
    except (ValueError, OSError) as exc:
        raise click.ClickException(str(exc)) from None
    for file in files:
        click.echo(file)
    click.echo("Next: read them, then run `items migrate` and `pytest`.", err=True)


def _files_of(resource: NewResource) -> Files:
    """Return the files to write, by path."""
    now = datetime.now(UTC)
    migration = migration_of(
        resource,
        revision=secrets.token_hex(6),
        down_revision=load_revisions().head,
        created=f"{now:%Y-%m-%d %H:%M}",
    )
    return {
        **slice_of(resource),
        **wiring_of(resource),
        f"migrations/versions/{now:%Y%m%d_%H%M}_{resource.plural}.py": migration,
        **tests_of(resource),
        OPENAPI: (ROOT / OPENAPI).read_text(),
    }


def _names_in_use() -> tuple[set[str], set[str]]:
    """Return the names that a resource cannot have, and those that its fields cannot have."""
    sample = slice_of(SAMPLE)
    wired = [(ROOT / file).read_text() for file in (MAIN, STATE)]
    inner = [text for file, text in sample.items() if file.split("/")[1] in CLASSES]
    return names_used([*sample.values(), *wired]), names_read(inner)
