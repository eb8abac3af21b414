"""The command: measure the variants, show and write what comes out."""

import os
from pathlib import Path

import click

from benchmarks.load import (
    AT_LEAST_1,
    CommaSeparated,
    database_option,
    out_option,
    prepare,
    rows_option,
)
from benchmarks.plan import Timing
from benchmarks.results import SCENARIOS
from benchmarks.steps.report import write_report
from benchmarks.steps.run import Order, run
from benchmarks.variants.catalog import SERVICE, VARIANTS

WARMUP = 1  # seconds


@click.command()
@database_option
@rows_option
@click.option(
    "--scenarios",
    type=CommaSeparated(click.Choice(list(SCENARIOS))),
    default="read",
    show_default=True,
    help="What to do to them; but for `read`, to those that it matters for",
)
@click.option(
    "--only",
    type=CommaSeparated(click.Choice(list(VARIANTS))),
    help="Some variants, beside the service itself",
)
@click.option("--workers", type=AT_LEAST_1, default=1, show_default=True, help="Of each variant")
@click.option(
    "--rounds",
    type=AT_LEAST_1,
    default=5,
    show_default=True,
    help="How often each variant bears the load",
)
@click.option("--seconds", type=AT_LEAST_1, default=5, show_default=True, help="Of each load")
@click.option("--quick", is_flag=True, help="One round of one second, for a first look")
@out_option
def steps(
    database_url: str | None,
    out: Path,
    rows: int,
    scenarios: tuple[str, ...],
    only: tuple[str, ...] | None,
    workers: int,
    rounds: int,
    seconds: int,
    quick: bool,
) -> None:
    """Measure what each step of a request costs, and what each measure against it is worth.

    Needs wrk. Starts everything else by itself, on this machine alone, and ends it again.
    """
    out = prepare(out)
    order = Order(
        [VARIANTS[name] for name in dict.fromkeys([SERVICE.name, *(only or VARIANTS)])],
        scenarios,
        rounds=1 if quick else rounds,
        workers=workers,
        timing=Timing(0, 1, rows) if quick else Timing(WARMUP, seconds, rows),
    )
    results = run(order, database_url, out)
    click.echo(write_report(results, out))
    click.echo(f"\nThe report is in {os.path.relpath(out / 'steps.md')}")
