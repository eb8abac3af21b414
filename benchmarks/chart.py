"""A chart of one scenario as SVG, in colours that read on a light page and on a dark one."""

from collections.abc import Iterator
from xml.sax.saxutils import escape

from benchmarks.results import SCENARIOS, Results, spread

WIDTH = 760
ROW, BAR, HEADING, FOOT = 20, 13, 34, 6  # heights
NAMES = 76  # width of the column of names
NUMBER = 62  # width of the number behind a bar
TEXT, ACCENT, MUTED = "#768390", "#2f81f7", "#8b949e"

# Each panel: the measurement's member, its title, how its numbers are written.
PANELS = (("rate", "requests a second", "{:,.0f}"), ("p99", "p99, milliseconds", "{:,.1f}"))
PANEL = (WIDTH - NAMES) // len(PANELS)


def chart(results: Results, scenario: str) -> str:
    """Bars of the medians, grouped by the number of connections; each group has its own scale."""
    shapes: list[str] = []
    top = 0
    for connections in results.connections():
        apps = results.apps(scenario, connections)
        shapes += _group(results, scenario, connections, apps, top)
        top += HEADING + len(apps) * ROW
    height = top + FOOT
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}"'
            f' width="{WIDTH}" role="img" font-family="system-ui, sans-serif" font-size="12"'
            f' fill="{TEXT}">',
            f"<title>{escape(SCENARIOS[scenario])}</title>",
            *shapes,
            "</svg>\n",
        ]
    )


def _group(
    results: Results, scenario: str, connections: int, apps: list[str], top: int
) -> Iterator[str]:
    """One number of connections: the applications' names, and a panel for each measure."""
    for row, app in enumerate(apps):
        yield f'<text x="{NAMES - 8}" y="{_baseline(top, row)}" text-anchor="end">{app}</text>'
    for index, (member, title, form) in enumerate(PANELS):
        left = NAMES + index * PANEL
        heading = f"{connections:,} connection{'s' * (connections > 1)}: {title}"
        yield f'<text x="{left}" y="{top + 22}" font-weight="bold">{heading}</text>'
        medians = [_median(results, app, scenario, connections, member) for app in apps]
        scale = (PANEL - NUMBER) / max(filter(None, medians), default=1)
        for row, (app, value) in enumerate(zip(apps, medians, strict=True)):
            if value is not None:
                yield _bar(left, top, row, value * scale, app)
                number = form.format(value)
                x = left + value * scale + 6
                yield f'<text x="{x:.1f}" y="{_baseline(top, row)}">{number}</text>'


def _median(
    results: Results, app: str, scenario: str, connections: int, member: str
) -> float | None:
    found = spread(getattr(m, member) for m in results.select(app, scenario, connections))
    return found.median if found else None


def _bar(left: int, top: int, row: int, width: float, app: str) -> str:
    y = top + HEADING + row * ROW
    colour = ACCENT if app == "service" else MUTED
    return (
        f'<rect x="{left}" y="{y}" width="{max(width, 1):.1f}" height="{BAR}" rx="2"'
        f' fill="{colour}"/>'
    )


def _baseline(top: int, row: int) -> int:
    """Where a text stands beside the bar of its row."""
    return top + HEADING + row * ROW + BAR - 2
