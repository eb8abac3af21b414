"""The report of a load run, for the terminal and as Markdown with a chart for each scenario."""

from collections.abc import Iterator
from pathlib import Path

from benchmarks.chart import chart
from benchmarks.pgbench import MAX_CLIENTS
from benchmarks.results import SCENARIOS, Results, Spread, ratio, spread
from benchmarks.servers import APPLICATIONS

# The number of connections that the summary speaks of, where it was measured.
USUAL_LOAD = 64

Table = list[list[str]]

HEADERS = [
    "connections",
    "application",
    "requests/s",
    "p50 ms",
    "p95 ms",
    "p99 ms",
    "errors",
    "app CPU us",
    "db CPU us",
    "worker MiB",
    "db conns",
    "x usual",
    "p99 x usual",
]

SUMMARY_HEADERS = [
    "",
    "requests/s",
    "x usual",
    "p99 ms",
    "p99 x usual",
    "x nothing",
    "x pgbench",
]

METHOD = """\
wrk, PostgreSQL and the application share this machine's cores: the figures compare designs under
the same conditions, and say nothing of what a larger machine would do. All applications run during
the whole measurement and one at a time is under load; each round drives every application once
under each load, beginning with another one, so that the machine's noise meets all of them alike.
The figures are medians over the rounds. A ratio is made within each round: its median stands with
the least and the most of the rounds in brackets. Errors are summed over the rounds. CPU time, in
microseconds, is that of all processes of the application, or of PostgreSQL, divided by the requests
that succeeded; memory is that of the largest worker after a load, connections are those to the
database in the midst of it, per worker, both the most of all rounds. wrk sends on each connection
as soon as the last answer is there, so that latency at a high number of connections is mostly
waiting in line.

Rows that POST made are deleted after each load, then the table is vacuumed and analysed
(autovacuum is off for it), so that each load finds the same table. Every application writes a line
of JSON for each request to a file. Where a pool, a timeout or a server's setting is not named here,
it stands at its default."""


def write_report(results: Results, folder: Path) -> str:
    """Write report, charts and results into `folder`; returns the summary for a terminal."""
    for scenario in results.scenarios():
        (folder / f"{scenario}.svg").write_text(chart(results, scenario))
    (folder / "report.md").write_text("\n".join(_markdown(results)) + "\n")
    results.save(folder / "results.json")
    return "\n".join(_plain_text(results))


def _markdown(results: Results) -> Iterator[str]:
    options = results.options
    yield "# Performance\n"
    yield (
        f"{options['seconds']} s for each load, rounds: {options['rounds']}; "
        f"{options['workers']} workers, {options['rows']:,} items in the table.\n"
    )
    yield from as_markdown(SUMMARY_HEADERS, _summary(results))
    yield f"\nThe service at {_summary_load(results)} connections. What it is compared with:\n"
    for name, meaning in _participants().items():
        yield f"* **{name}**: {meaning}"
    for scenario in results.scenarios():
        title = SCENARIOS[scenario]
        yield f"\n## {title}\n\n![{title}, the medians]({scenario}.svg)\n"
        yield from as_markdown(HEADERS, _table(results, scenario))
    yield f"\n## How it was measured\n\n{METHOD}\n\n## The machine\n"
    machine = results.machine | others_row(results)
    yield from as_markdown(["", ""], [[name, text] for name, text in machine.items()])


def _plain_text(results: Results) -> Iterator[str]:
    for scenario in results.scenarios():
        yield f"\n{SCENARIOS[scenario]}\n"
        yield from as_text(HEADERS, _table(results, scenario))
    yield f"\nThe service at {_summary_load(results)} connections\n"
    yield from as_text(SUMMARY_HEADERS, _summary(results))


def others_row(results: Results) -> dict[str, str]:
    """How far the machine was not the benchmark's own."""
    cores = spread(m.others for m in results.measurements)
    if cores is None:
        return {}
    text = f"{cores.median:.2f} cores in the median, {cores.most:.2f} at most"
    return {"Used by others meanwhile": text}


def _participants() -> dict[str, str]:
    pgbench = (
        "the same insert from PostgreSQL's own load generator, prepared, one a transaction; up to"
        f" {MAX_CLIENTS} clients"
    )
    return APPLICATIONS | {"pgbench": pgbench}


def _summary_load(results: Results) -> int:
    measured = results.connections()
    return USUAL_LOAD if USUAL_LOAD in measured else max(measured)


def _summary(results: Results) -> Table:
    load = _summary_load(results)
    rows = []
    for scenario in results.scenarios():
        service, usual, nothing, pgbench = (
            results.select(app, scenario, load)
            for app in ("service", "usual", "nothing", "pgbench")
        )
        rows.append(
            [
                SCENARIOS[scenario],
                _number(spread(m.rate for m in service), 0),
                _spread(ratio(service, usual, "rate")),
                _number(spread(m.p99 for m in service), 1),
                _spread(ratio(service, usual, "p99")),
                _spread(ratio(service, nothing, "rate")),
                _spread(ratio(service, pgbench, "rate")),
            ]
        )
    return rows


def _table(results: Results, scenario: str) -> Table:
    rows = []
    for connections in results.connections():
        usual = results.select("usual", scenario, connections)
        for app in results.apps(scenario, connections):
            measured = results.select(app, scenario, connections)
            memory = spread(m.worker_memory for m in measured)
            held = spread(m.worker_connections for m in measured)
            rows.append(
                [
                    f"{connections:,}",
                    app,
                    _number(spread(m.rate for m in measured), 0),
                    _number(spread(m.p50 for m in measured), 1),
                    _number(spread(m.p95 for m in measured), 1),
                    _number(spread(m.p99 for m in measured), 1),
                    f"{sum(m.errors for m in measured):,}",
                    _number(spread(m.app_cpu for m in measured), 0),
                    _number(spread(m.database_cpu for m in measured), 0),
                    f"{memory.most:.0f}" if memory else "-",
                    f"{held.most:.3g}" if held else "-",
                    _spread(ratio(measured, usual, "rate")),
                    _spread(ratio(measured, usual, "p99")),
                ]
            )
    return rows


def _number(values: Spread | None, decimals: int) -> str:
    return f"{values.median:,.{decimals}f}" if values else "-"


def _spread(values: Spread | None) -> str:
    """As 9.1 (8.7-9.4)."""
    if values is None:
        return "-"
    return f"{_short(values.median)} ({_short(values.least)}-{_short(values.most)})"


def _short(value: float) -> str:
    return f"{value:.1f}" if value >= 2 else f"{value:.2f}"


def as_markdown(headers: list[str], rows: Table) -> Iterator[str]:
    yield _line(headers)
    yield _line([_alignment(rows, column) for column in range(len(headers))])
    for row in rows:
        yield _line(row)


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _alignment(rows: Table, column: int) -> str:
    return "---:" if all(row[column][:1] in "-0123456789" for row in rows) else "---"


def as_text(headers: list[str], rows: Table) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(headers, *rows, strict=True)]
    for row in (headers, *rows):
        yield "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
