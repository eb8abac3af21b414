"""The tables of steps, for the terminal and as Markdown."""

from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path

from benchmarks.report import Table, as_markdown, as_text, others_row
from benchmarks.results import SCENARIOS, Measurement
from benchmarks.steps.figures import cpu_difference, median, merged, percent_more, percent_of
from benchmarks.steps.run import CONNECTIONS, StepResults
from benchmarks.variants.catalog import CHANGES, LADDER, SERVICE, Variant

LADDER_HEADERS = [
    "step",
    "requests/s",
    "p99 ms",
    "app CPU us",
    "CPU us it adds",
    "% of the service",
]
CHANGES_HEADERS = [
    "the service with",
    "requests/s",
    "p99 ms",
    "app CPU us",
    "CPU us more",
    "requests/s more, %",
    "p99 more, %",
    "errors",
]
MEMORY_HEADERS = ["", "a worker's RSS MiB", "a worker's PSS MiB", "PSS of all MiB"]
# Where there is reason to look at it.
MEMORY_OF = ("the service", "collector untuned", "PYTHONOPTIMIZE=2", "--preload")

METHOD = """\
Every variant runs during the whole measurement, under the service's own Gunicorn configuration and
with its log in a file, and one at a time is under load; each round drives each of them once, in a
new order, and the service three times, of which the median counts. Figures are medians over the
rounds. A difference is made within each round: its median stands with the least and the most of the
rounds in brackets, and a tilde before what is above nothing in one round and below it in another.
One row has as many sets in flight as the service has (`service/routers/item.py`), and so is the
service once more: what differs by no more than that row has not been shown to differ. CPU time is
that of Gunicorn's master and workers, in user and system mode, divided by the requests that
succeeded. It tells most: requests a second also hang on wrk and PostgreSQL, which share the
machine's cores with the application, and p99 on whoever else uses them. In the ladder only the
service has a database.

Memory is that at the end of the run. With one worker `--preload` can share pages with Gunicorn's
master only; `--workers` says what more of them make of it."""


def write_report(results: StepResults, folder: Path) -> str:
    """Write report and results into `folder`; returns the tables for a terminal."""
    (folder / "steps.md").write_text("\n".join(_markdown(results)) + "\n")
    results.save(folder / "steps.json")
    return "\n".join(_plain_text(results))


def _markdown(results: StepResults) -> Iterator[str]:
    options = results.options
    yield "# Steps\n"
    yield (
        f"{options['seconds']} s for each load of {CONNECTIONS} connections, rounds: "
        f"{options['rounds']}; workers: {options['workers']}, {options['rows']:,} items in the"
        " table."
    )
    for title, headers, rows, variants in _tables(results):
        yield f"\n## {title}\n"
        yield from as_markdown(headers, rows)
        yield ""
        yield from (f"* **{variant.name}**: {variant.meaning}" for variant in variants)
    yield f"\n## How it was measured\n\n{METHOD}\n\n## The machine\n"
    machine = results.machine | others_row(results)
    yield from as_markdown(["", ""], [[name, text] for name, text in machine.items()])


def _plain_text(results: StepResults) -> Iterator[str]:
    for title, headers, rows, _ in _tables(results):
        yield f"\n{title}\n"
        yield from as_text(headers, rows)
    for name, text in others_row(results).items():
        yield f"\n{name}: {text}"


def _tables(
    results: StepResults,
) -> Iterator[tuple[str, list[str], Table, Iterable[Variant]]]:
    """Each with its title, its headers, and the variants to explain under it."""
    for scenario in results.scenarios():
        apps = results.apps(scenario, CONNECTIONS)
        operation = SCENARIOS[scenario]
        steps = [variant for variant in LADDER if variant.name in apps]
        if len(steps) > 1:
            title = f"The ladder, {operation}"
            yield title, LADDER_HEADERS, _ladder(results, scenario, steps), steps
        changes = [variant for variant in CHANGES if variant.name in apps]
        if changes:
            title = f"Taken away, or put back, {operation}"
            rows = _changes(results, scenario, [SERVICE, *changes])
            yield title, CHANGES_HEADERS, rows, changes
    yield "Memory", MEMORY_HEADERS, _memory(results), ()


def _ladder(results: StepResults, scenario: str, steps: list[Variant]) -> Table:
    measured = [_select(results, step, scenario) for step in steps]
    added = [cpu_difference(upper, lower) for lower, upper in pairwise(measured)]
    return [
        [
            step.name,
            median(of_step, "rate", 0),
            median(of_step, "p99", 1),
            median(of_step, "app_cpu", 1),
            adds,
            percent_of(of_step, measured[-1], "app_cpu"),
        ]
        for step, of_step, adds in zip(steps, measured, ["-", *added], strict=True)
    ]


def _changes(results: StepResults, scenario: str, variants: list[Variant]) -> Table:
    base = _select(results, SERVICE, scenario)
    rows = []
    for variant in variants:
        measured = _select(results, variant, scenario)
        is_base = variant is SERVICE
        rows.append(
            [
                variant.name,
                median(measured, "rate", 0),
                median(measured, "p99", 1),
                median(measured, "app_cpu", 1),
                "-" if is_base else cpu_difference(measured, base),
                "-" if is_base else percent_more(measured, base, "rate"),
                "-" if is_base else percent_more(measured, base, "p99"),
                f"{sum(m.errors for m in measured):,}",
            ]
        )
    return rows


def _select(results: StepResults, variant: Variant, scenario: str) -> list[Measurement]:
    return merged(results.select(variant.name, scenario, CONNECTIONS))


def _memory(results: StepResults) -> Table:
    return [
        [name, *(_mib(value) for value in (had.worker_rss, had.worker_pss, had.all_pss))]
        for name, had in results.memory.items()
        if name in MEMORY_OF
    ]


def _mib(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"
