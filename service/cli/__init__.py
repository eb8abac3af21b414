"""The `items` command."""

import click

from service.cli.contract import key, openapi
from service.cli.data import import_items, purge, seed
from service.cli.new.command import new_resource
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
    seed,
    import_items,
    purge,
    key,
    openapi,
):
    main.add_command(command)
