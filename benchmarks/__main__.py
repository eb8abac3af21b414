"""The command line: `python -m benchmarks [load | steps | claims]`; without a name, all three."""

import argparse
import os
import resource
import signal
import sys
from collections.abc import Collection, Sequence
from dataclasses import fields
from pathlib import Path

from benchmarks import claims, load, steps
from benchmarks.comparison import Options
from benchmarks.servers import SCENARIOS

RESULTS = Path("benchmarks/results")
OPEN_FILES = 8192  # for thousands of connections


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark that the command line names, or all of them with their defaults."""
    # As on Ctrl-C, what was started is stopped.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, OPEN_FILES)), hard))
    parser = _parser()
    given = parser.parse_args(arguments)
    names = [given.benchmark] if given.benchmark else ["load", "steps", "claims"]
    for name in names:
        options = given if given.benchmark else parser.parse_args([name])
        options.out = options.out.resolve()
        options.out.mkdir(parents=True, exist_ok=True)
        if name == "claims":
            claims.run(options.only, options)
        else:
            benchmark = load if name == "load" else steps
            comparison = {each.name: getattr(options, each.name) for each in fields(Options)}
            benchmark.run(options.only, Options(**comparison))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    benchmarks = parser.add_subparsers(dest="benchmark")

    compared = benchmarks.add_parser("load", help="compare the service with other designs")
    _add_common(compared, load.APPLICATIONS, rounds=5)
    _add_comparison(compared, seconds=10, workers=2, scenarios=SCENARIOS, clients=(1, 64, 1000))

    measured = benchmarks.add_parser("steps", help="measure what each step of a request costs")
    _add_common(measured, steps.VARIANTS, rounds=5)
    _add_comparison(measured, seconds=5, workers=1, scenarios=["read"], clients=[64])

    checked = benchmarks.add_parser("claims", help="check what is often said about this stack")
    _add_common(checked, claims.TOPICS, rounds=25)
    checked.add_argument(
        "--seconds", type=float, default=0.15, help="duration of one measurement [%(default)s]"
    )
    return parser


def _add_common(parser: argparse.ArgumentParser, names: Collection[str], *, rounds: int) -> None:
    """Add the options of every benchmark."""
    add = parser.add_argument
    add(
        "--database",
        metavar="URL",
        default=os.environ.get("DATABASE_URL"),
        help="PostgreSQL server for a temporary database [DATABASE_URL, or an embedded server]",
    )
    add("--out", type=Path, default=RESULTS, help="folder for the report [%(default)s]")
    add("--rounds", type=int, default=rounds, help="measurements of each subject [%(default)s]")
    add(
        "--only",
        nargs="+",
        choices=list(names),
        default=list(names),
        metavar="NAME",
        help=f"what to measure, of: {', '.join(names)} [all]",
    )


def _add_comparison(
    parser: argparse.ArgumentParser,
    *,
    seconds: int,
    workers: int,
    scenarios: Collection[str],
    clients: Sequence[int],
) -> None:
    """Add the options of a comparison under load, with their defaults."""
    add = parser.add_argument
    add("--seconds", type=int, default=seconds, help="duration of one load [%(default)s]")
    add("--workers", type=int, default=workers, help="of each application [%(default)s]")
    add("--rows", type=int, default=100_000, help="items in the table [%(default)s]")
    add(
        "--scenarios",
        nargs="+",
        choices=list(SCENARIOS),
        default=list(scenarios),
        help="what wrk sends [%(default)s]",
    )
    add(
        "--connections",
        nargs="+",
        type=int,
        default=list(clients),
        metavar="N",
        help="clients at the same time [%(default)s]",
    )


if __name__ == "__main__":
    main()
