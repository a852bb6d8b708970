"""A query at work: rows pass from command to command; what has to wait for others waits in bounded memory."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from functools import cmp_to_key
from typing import NamedTuple

from kmsd.domain.log_query_rows import Row
from kmsd.domain.log_query_stats import MOST_GROUPS, Aggregate, Budget, Make, TooLarge
from kmsd.domain.log_query_syntax import Evaluate, Expression
from kmsd.domain.log_query_values import order, text, truth
from kmsd.domain.log_regex import Regex

MOST_ROWS = 10_000
"""Rows of a result without a limit."""


class Stage(ABC):
    """One command."""

    done = False
    """No row that comes after will pass."""

    @abstractmethod
    def feed(self, row: Row) -> Iterable[Row]:
        """What passes on when `row` comes."""

    def end(self) -> Iterable[Row]:
        """What passes on when no more rows come."""
        return ()


class Compute(Stage):
    """`fields` with expressions: each that is not a plain field is worked out and kept by its name."""

    def __init__(self, columns: Sequence[tuple[str, Evaluate]]) -> None:
        self._columns = columns

    def feed(self, row: Row) -> Iterable[Row]:
        for name, evaluate in self._columns:
            row.fields[name] = evaluate(row)
        return (row,)


class Filter(Stage):
    """`filter`."""

    def __init__(self, condition: Evaluate) -> None:
        self._condition = condition

    def feed(self, row: Row) -> Iterable[Row]:
        return (row,) if truth(self._condition(row)) else ()


class ParseGlob(Stage):
    """`parse @message "user=*, id=*" as user, id`: each star takes as little as it can."""

    def __init__(self, of: Evaluate, glob: str, names: Sequence[str]) -> None:
        self._of = of
        self._parts = glob.split("*")
        self._names = names

    def feed(self, row: Row) -> Iterable[Row]:
        value = self._of(row)
        found = None if value is None else self._match(text(value))
        if found is not None:
            row.fields.update(zip(self._names, found, strict=True))
        return (row,)

    def _match(self, value: str) -> list[str] | None:
        """One pass: the first part anywhere, each other one at its next place; an open end takes the rest."""
        first, *rest = self._parts
        at = value.find(first)
        if at < 0:
            return None
        at += len(first)
        found = []
        for index, part in enumerate(rest):
            is_last = index == len(rest) - 1
            place = len(value) if is_last and not part else value.find(part, at)
            if place < 0:
                return None
            found.append(value[at:place])
            at = place + len(part)
        return found


class ParseRegex(Stage):
    r"""`parse @message /user=(?<user>\w+)/`."""

    def __init__(self, of: Evaluate, regex: Regex) -> None:
        self._of = of
        self._regex = regex

    def feed(self, row: Row) -> Iterable[Row]:
        value = self._of(row)
        found = None if value is None else self._regex.groups(text(value))
        if found is not None:
            row.fields.update(found)
        return (row,)


class Stats(Stage):
    """`stats count(*) as n by bin(5m)`: a row for each group."""

    def __init__(self, results: Sequence[tuple[str, Make]], by: Sequence[Expression]) -> None:
        self._results = results
        self._by = by
        self._budget = Budget()
        self._groups: dict[tuple[str, ...], tuple[Row, list[Aggregate]]] = {}

    def feed(self, row: Row) -> Iterable[Row]:
        values = [column.evaluate(row) for column in self._by]
        key = tuple(map(text, values))
        known = self._groups.get(key)
        if known is None:
            if len(self._groups) >= MOST_GROUPS:
                raise TooLarge(f"more than {MOST_GROUPS} groups")
            made = Row()
            made.fields.update(zip((column.text for column in self._by), values, strict=True))
            known = self._groups[key] = (made, [make(self._budget) for _, make in self._results])
        for aggregate in known[1]:
            aggregate.add(row)
        return ()

    def end(self) -> Iterable[Row]:
        if not self._groups and not self._by:
            self._groups[()] = (Row(), [make(self._budget) for _, make in self._results])
        for row, aggregates in self._groups.values():
            for (name, _), aggregate in zip(self._results, aggregates, strict=True):
                row.fields[name] = aggregate.result()
            yield row


class SortKey(NamedTuple):
    """One of the things to sort by."""

    evaluate: Evaluate
    descending: bool


class Sort(Stage):
    """`sort`: of all rows only as many are kept as can be asked for."""

    def __init__(self, keys: Sequence[SortKey], most: int) -> None:
        self._keys = keys
        self._most = most
        self._rows: list[tuple[list[tuple[int, float, str]], Row]] = []

    def feed(self, row: Row) -> Iterable[Row]:
        self._rows.append(([order(key.evaluate(row)) for key in self._keys], row))
        if len(self._rows) >= 2 * self._most + 1_000:
            self._cut()
        return ()

    def _cut(self) -> None:
        def compare(
            left: tuple[list[tuple[int, float, str]], Row], right: tuple[list[tuple[int, float, str]], Row]
        ) -> int:
            for one, other, key in zip(left[0], right[0], self._keys, strict=True):
                if one != other:
                    return (1 if one > other else -1) * (-1 if key.descending else 1)
            return 0

        self._rows.sort(key=cmp_to_key(compare))
        del self._rows[self._most :]

    def end(self) -> Iterable[Row]:
        self._cut()
        return (row for _, row in self._rows)


class Limit(Stage):
    """`limit`."""

    def __init__(self, most: int) -> None:
        self._left = most

    def feed(self, row: Row) -> Iterable[Row]:
        self._left -= 1
        self.done = self._left <= 0
        return (row,) if self._left >= 0 else ()


class Dedup(Stage):
    """`dedup`: the first row of each combination of values."""

    def __init__(self, columns: Sequence[Evaluate]) -> None:
        self._columns = columns
        self._seen: set[tuple[str, ...]] = set()

    def feed(self, row: Row) -> Iterable[Row]:
        key = tuple(text(column(row)) for column in self._columns)
        if key in self._seen:
            return ()
        if len(self._seen) >= MOST_GROUPS:
            raise TooLarge(f"more than {MOST_GROUPS} different rows")
        self._seen.add(key)
        return (row,)


MakeStage = Callable[[], Stage]
GLOB_STAR = re.compile(r"\*")
