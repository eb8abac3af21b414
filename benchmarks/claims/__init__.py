"""What is often said about this stack, measured and judged: `python -m benchmarks claims`."""

from benchmarks.claims.run import TOPICS, run

__all__ = ["TOPICS", "run"]
