"""Where a request's time goes, and what each measure against it is worth.

`command` takes the options, `run` measures the variants of `benchmarks.variants`, `figures` makes
differences of what they took, `report` shows them.
"""

from benchmarks.steps.command import steps

__all__ = ["steps"]
