"""The field's folklore about this stack, each claim measured on this machine and judged.

`command` runs the topics, which stand in a module each; `measure` takes their times, `claim` judges
them, `report` shows them.
"""

from benchmarks.claims.command import claims

__all__ = ["claims"]
