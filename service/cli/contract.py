"""Commands for API keys and the OpenAPI document."""

import click
import orjson

from service.domain.api_key import SCOPES, create_key, parse_keys


@click.group()
def key() -> None:
    """Manage API keys."""


@key.command()
@click.argument("name")
@click.option("--scope", "scopes", type=click.Choice(SCOPES), multiple=True, required=True)
def create(name: str, scopes: tuple[str, ...]) -> None:
    """Make a key for NAME, which identifies its bearer in limits and logs."""
    try:
        made, entry = create_key(name, scopes)
    except ValueError as exc:
        raise click.ClickException(str(exc)) from None
    click.echo(f"The key, which is not shown again: {made}")
    click.echo(f"The entry to add to API_KEYS: {entry}")


@click.command()
def openapi() -> None:
    """Print the OpenAPI document of a service with API keys."""
    # Imported here, as the other commands do not need the application.
    from service.main import create_app
    from service.settings import get_settings

    _, entry = create_key("anyone", SCOPES)
    settings = get_settings().model_copy(
        update={"api_keys": parse_keys(entry), "docs_enabled": True}
    )
    document = create_app(settings).openapi()
    click.echo(orjson.dumps(document, option=orjson.OPT_INDENT_2))
