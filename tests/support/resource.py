"""The description of a resource, from which the tests that every resource inherits are made."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

NOON = "2026-03-01T12:00:00Z"
# Valid values of each kind, equal to those in responses: 7.0 is an integer, too.
VALUES: dict[str, list[Any]] = {
    "title": ["Anna", "anna", "Bob", "Zoë", "Ärger", "100%", 'say "hi"', "x" * 255],
    "text": ["", "Some text", "100%", "two\nlines", "x" * 10_000],
    "int": [1 - 2**53, -5, 0, 7.0, 2**53 - 1],
    "price": [0, 0.01, 5, 29.99, 9999999999.99],
    "bool": [False, True],
    "time": [
        *("0001-01-01T00:00:00.000001Z", "2026-03-01T11:59:59.999999Z", NOON),
        *("2026-03-01T12:00:00.000001Z", "9999-12-31T23:59:59.999998Z"),
    ],
}
# Values that no field of the kind takes.
WRONG: dict[str, list[Any]] = {
    "title": ["", "  ", "a\x00b", "x" * 256, 5],
    "text": ["a\x00b", "x" * 10_001, 5],
    "int": [2**53, -(2**53), 1.5, 1e300, "1", True],
    "price": [-1, 0.001, 10_000_000_000, "1", True],
    "bool": ["true", 0],
    "time": ["2026-03-01", "2026-03-01T12:00:00", 0, "9999-12-31T23:59:59.999999Z"],
}
# SQL that stores what no field of the kind takes.
WRONG_SQL = {
    "title": ["''", "'  '", "repeat('x', 256)"],
    "text": ["repeat('x', 10001)"],
    "price": ["-0.01", "'NaN'", "'Infinity'"],
    "time": ["'infinity'", "'-infinity'", "'10000-01-01'"],
}


@dataclass(frozen=True)
class Resource:
    """A resource, as its documentation describes it.

    Attributes:
        path: of the list.
        kinds: the kind of each field; `?` marks a nullable one. A title is the text that `q`
            searches.
        sorts: the columns that sort lists.
        filters: the column that each filter compares.
        deactivates: whether DELETE sets `is_active` to false.
    """

    path: str
    kinds: dict[str, str]
    sorts: list[str]
    filters: dict[str, str]
    deactivates: bool

    def values_of(self, name: str) -> list[Any]:
        """Return valid values of a field."""
        kind = self.kinds[name]
        return [*VALUES[kind.removesuffix("?")], *([None] if kind.endswith("?") else [])]

    def content(self, seed: int) -> dict[str, Any]:
        """Return valid content, the same for the same seed."""
        random_ = random.Random(seed)
        return {name: random_.choice(self.values_of(name)) for name in self.kinds}

    def required(self) -> dict[str, Any]:
        """Return the least content of a row."""
        return {
            name: self.values_of(name)[-1]
            for name, kind in self.kinds.items()
            if kind != "bool" and not kind.endswith("?")
        }

    def defaults(self) -> dict[str, Any]:
        """Return the values of the fields that a client may omit."""
        return {
            name: None if kind.endswith("?") else name == "is_active"
            for name, kind in self.kinds.items()
            if name not in self.required()
        }

    def key(self, row: Any, column: str) -> Any:
        """Return the value of a column in a form that compares as the database does."""
        value = row[column]
        is_time = self.kinds.get(column, "time").startswith("time") and column != "id"
        return datetime.fromisoformat(value) if value is not None and is_time else value

    def in_order(self, rows: list[Any], sort: str) -> list[Any]:
        """Return rows in the order that the list must have: NULL last, ties by id."""
        column = sort.removeprefix("-")

        def place(row: Any) -> tuple[Any, ...]:
            key = self.key(row, column)
            return (key is None, *([] if key is None else [key]), row["id"])

        return sorted(rows, key=place, reverse=sort.startswith("-"))

    def passes(self, row: Any, filter_: str, value: Any) -> bool:
        """Return whether a row passes a filter, as the filters are documented."""
        column = self.filters[filter_]
        have, wanted = self.key(row, column), self.key({column: value}, column)
        if have is None:
            return False
        if filter_ == "q":
            return bool(wanted.lower() in have.lower())
        if filter_ == column:
            return bool(have == wanted)
        suffix = filter_.rpartition("_")[2]
        checks = {
            "min": have >= wanted,
            "max": have <= wanted,
            "after": have > wanted,
            "before": have < wanted,
        }
        return bool(checks[suffix])

    def wanted(self, rows: list[Any]) -> Iterator[tuple[str, Any]]:
        """Yield each filter with values that some rows have."""
        for filter_, column in self.filters.items():
            values = [row[column] for row in rows if row[column] is not None]
            for value in list(dict.fromkeys(values))[:4]:
                yield filter_, value[1:4] if filter_ == "q" else value
