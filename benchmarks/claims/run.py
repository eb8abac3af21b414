"""Measure the topics one after the other, judge the claims, and write the report."""

import argparse
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import uvloop

from benchmarks.claims.bench import Bench, Samples
from benchmarks.claims.claim import read_claims
from benchmarks.claims.config import config
from benchmarks.claims.endpoints import blocking, endpoints
from benchmarks.claims.engines import engines, queries
from benchmarks.claims.objects import conversion, memory, objects
from benchmarks.claims.responses import responses
from benchmarks.database import database
from benchmarks.report import machine, table, write
from benchmarks.rounds import short
from service.settings import Settings

ROWS = 1000
CONNECTIONS = 40

TOPICS: dict[str, Callable[[Bench], Awaitable[Samples]]] = {
    topic.__name__: topic
    for topic in (
        *(objects, memory, conversion, config, engines, queries),
        *(endpoints, blocking, responses),
    )
}
HEADERS = ("claim", "often said", "measured", "figure", "holds", "in part", "verdict")
METHOD = """\
A figure is the median of {rounds} rounds of about {seconds:g} s, longer under load, with its
quartiles in brackets. The rounds alternate between the variants, and a ratio is taken within a
round. `a / b` is the ratio of variant a's time, memory or p99 to variant b's; other figures are in
milliseconds. Pure computation is measured in CPU time, and everything else in elapsed time.

The verdict is computed. A claim holds if the median is beyond the limit under "holds", which is
the lower end of what is often said. It holds in part if the median is beyond the next limit."""


def run(names: Sequence[str], options: argparse.Namespace) -> None:
    """Check the claims of the topics called `names`; write the report and the raw figures.

    Args:
        options: `database`, `out`, `rounds` and `seconds` of the command line.
    """
    with (
        TemporaryDirectory(dir=options.out, prefix=".logs-") as logs,
        database(options.database, options.out, CONNECTIONS) as db,
    ):
        db.fill(ROWS, Path(logs))
        versions = machine() | {"PostgreSQL": db.describe()}
        settings = Settings(_env_file=None, database_url=db.url)
        bench = Bench(options.rounds, options.seconds, settings, range(1, ROWS + 1))
        samples = uvloop.run(_measure(names, bench))
    write(options.out, "claims", report(samples, bench, versions), samples)


async def _measure(names: Sequence[str], bench: Bench) -> dict[str, Samples]:
    samples = {}
    for number, name in enumerate(names, 1):
        print(f"{number}/{len(names)}: {name}", file=sys.stderr)
        samples[name] = await TOPICS[name](bench)
    return samples


def report(samples: Mapping[str, Samples], bench: Bench, versions: dict[str, str]) -> str:
    """Return the report as Markdown."""
    rows = []
    for claim in read_claims():
        if claim.topic in samples:
            measured = claim.measured(samples[claim.topic])
            said = (claim.text, claim.often_said, str(measured), claim.figure)
            rows.append([*said, claim.holds, claim.in_part, claim.verdict(measured.median)])
    parts = [
        "# Claims",
        table(HEADERS, rows),
        "## Method",
        METHOD.format(rounds=bench.rounds, seconds=bench.seconds),
        "\n".join(_measured(name, samples[name]) for name in samples),
        "## Machine",
        table(["", ""], list(versions.items())),
    ]
    return "\n\n".join(parts) + "\n"


def _measured(name: str, samples: Samples) -> str:
    """Return a topic's method and the medians of its variants, as an item of a list."""
    method = " ".join((TOPICS[name].__doc__ or "").split())
    factor, unit = (1, "bytes") if name == "memory" else (1_000_000, "us")
    medians = (
        f"{variant}: {short(median(values) * factor)} {unit}" for variant, values in samples.items()
    )
    return f"* **{name}**: {method} *{'; '.join(medians)}.*"
