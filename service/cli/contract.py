"""Commands about who may call, and what."""

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
    """Make a key for NAME, which is what limits and logs know its bearer by."""
    try:
        made, entry = create_key(name, scopes)
    except ValueError as exc:
        raise click.ClickException(str(exc)) from None
    click.echo(f"The key, which is shown this once: {made}")
    click.echo(f"The entry to add to API_KEYS: {entry}")


@click.command()
def openapi() -> None:
    """Print the OpenAPI document, as it is where API keys are in use."""
    # Here, as the other commands do without the application.
    from service.main import create_app
    from service.settings import get_settings

    _, entry = create_key("anyone", SCOPES)
    settings = get_settings().model_copy(
        update={"api_keys": parse_keys(entry), "docs_enabled": True}
    )
    document = create_app(settings).openapi()
    click.echo(orjson.dumps(document, option=orjson.OPT_INDENT_2))
