"""The `items` command."""

import click

from service.cli.contract import key, openapi
from service.cli.items import import_items, seed
from service.cli.new.command import new_resource
from service.cli.purge import purge
from service.cli.rename import rename
from service.cli.schema import migrate, revision
from service.cli.server import dev, serve


@click.group()
def main() -> None:
    """Run and administer the items service."""


for command in (
    dev,
    serve,
    migrate,
    revision,
    new_resource,
    rename,
    seed,
    import_items,
    purge,
    key,
    openapi,
):
    main.add_command(command)
