"""A bar chart of one scenario as SVG, readable on light and on dark pages."""

import math
from collections.abc import Iterator
from statistics import median
from xml.sax.saxutils import escape

from benchmarks.comparison import Comparison, Load
from benchmarks.rounds import short
from benchmarks.servers import SCENARIOS

WIDTH = 760
ROW, BAR, HEADING, FOOT = 20, 13, 34, 6  # heights
NAMES = 76  # width of the column of names
LABEL = 62  # width of the number behind a bar
TEXT, ACCENT, MUTED = "#768390", "#2f81f7", "#8b949e"

# Each panel: a figure, and its title.
PANELS = {"requests/s": "requests a second", "p99 ms": "p99, milliseconds"}
PANEL = (WIDTH - NAMES) // len(PANELS)


def chart(comparison: Comparison, scenario: str) -> str:
    """Return bars of the medians, grouped by load; each group has its own scale."""
    shapes: list[str] = []
    top = 0
    for load in comparison.loads(scenario):
        shapes += _group(comparison, load, top)
        top += HEADING + len(comparison.samples[load]) * ROW
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


def _group(comparison: Comparison, load: Load, top: int) -> Iterator[str]:
    """Yield the shapes of one load: the names, and a panel for each figure."""
    apps = list(comparison.samples[load])
    rows = [top + HEADING + row * ROW for row in range(len(apps))]
    for app, y in zip(apps, rows, strict=True):
        yield f'<text x="{NAMES - 8}" y="{y + BAR - 2}" text-anchor="end">{app}</text>'
    for index, (figure, title) in enumerate(PANELS.items()):
        left = NAMES + index * PANEL
        heading = f"{load.connections:,} connection{'s' * (load.connections > 1)}: {title}"
        yield f'<text x="{left}" y="{top + 22}" font-weight="bold">{heading}</text>'
        medians = [median(comparison.values(load, app, figure)) for app in apps]
        scale = (PANEL - LABEL) / max((value for value in medians if value > 0), default=1)
        for app, y, value in zip(apps, rows, medians, strict=True):
            if not math.isnan(value):
                yield _bar(left, y, value * scale, app)
                x = left + value * scale + 6
                yield f'<text x="{x:.1f}" y="{y + BAR - 2}">{short(value)}</text>'


def _bar(left: int, y: int, width: float, app: str) -> str:
    colour = ACCENT if app == "service" else MUTED
    return (
        f'<rect x="{left}" y="{y}" width="{max(width, 1):.1f}" height="{BAR}" rx="2"'
        f' fill="{colour}"/>'
    )
