"""`python -m benchmarks`: the load comparison, or one of the other measurements by name."""

from importlib import import_module

import click

# Each is a command in the module of that name.
COMMANDS = {
    "load": "Compare the service under load with the usual design",
    "claims": "Measure what is often said about this stack, and judge it",
    "steps": "Measure what each step of a request costs",
}
DEFAULT = "load"


class Commands(click.Group):
    """Imports a command when it is asked for, so that none needs what only another one uses."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All of them, the default first."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name, or None where there is none."""
        if cmd_name not in COMMANDS:
            return None
        try:
            command = getattr(import_module(f"benchmarks.{cmd_name}"), cmd_name)
        except ModuleNotFoundError as exc:
            raise click.ClickException(
                f"`{cmd_name}` needs {exc.name}, which `uv sync --all-groups` installs"
            ) from None
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List them without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Take arguments that begin with an option as those of the default command."""
        if not args or (args[0].startswith("-") and args[0] not in ctx.help_option_names):
            args = [DEFAULT, *args]
        return super().parse_args(ctx, args)


@click.command(cls=Commands)
def main() -> None:
    """Measure the service. Without a command: `load`."""


if __name__ == "__main__":
    main(prog_name="python -m benchmarks")
