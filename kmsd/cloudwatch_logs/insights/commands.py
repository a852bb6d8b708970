"""Commands of a query as stages that rows pass through. Rows that a stage holds back count in the query's budget."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from operator import itemgetter
from struct import pack, unpack
from typing import NamedTuple

from kmsd.cloudwatch_logs.insights.aggregates import Aggregate, AggregateFactory
from kmsd.cloudwatch_logs.insights.parser import Evaluator, Expression
from kmsd.cloudwatch_logs.insights.rows import Record, weight
from kmsd.cloudwatch_logs.insights.values import Value, order, text, truth
from kmsd.cloudwatch_logs.regex import Regex
from kmsd.cloudwatch_logs.work_budget import Budget, TooLarge, matching_work

MAX_ROWS = 10_000
"""Limit on the rows of a result if the query sets none."""
MAX_UNSORTED = 1_000
"""Number of unsorted rows at which they are sorted and merged with the others: that takes a few milliseconds."""
_GROUP_BYTES = 1_000
_AGGREGATE_BYTES = 300


class Stage(ABC):
    """One command of a query."""

    done = False
    """True if the stage will pass no further row."""

    @abstractmethod
    def feed(self, row: Record) -> Iterable[Record]:
        """Process a row and return the rows to pass on."""

    def end(self) -> Iterable[Record]:
        """Return the rows to pass on after the last row."""
        return ()


class Compute(Stage):
    """`fields` with expressions: evaluates each and stores its value under its name."""

    def __init__(self, columns: Sequence[tuple[str, Evaluator]]) -> None:
        self._columns = columns

    def feed(self, row: Record) -> Iterable[Record]:
        for name, evaluate in self._columns:
            row.fields[name] = evaluate(row)
        return (row,)


class Filter(Stage):
    """`filter`: passes rows for which the condition is true."""

    def __init__(self, condition: Evaluator) -> None:
        self._condition = condition

    def feed(self, row: Record) -> Iterable[Record]:
        return (row,) if truth(self._condition(row)) else ()


class ParseGlob(Stage):
    """`parse @message "user=*, id=*" as user, id`: each star matches as little as possible."""

    def __init__(self, of: Evaluator, glob: str, names: Sequence[str]) -> None:
        self._of = of
        self._parts = glob.split("*")
        self._names = names

    def feed(self, row: Record) -> Iterable[Record]:
        value = self._of(row)
        found = self._match(shown) if value is not None and row.affords(len(shown := text(value))) else None
        if found is not None:
            row.fields.update(zip(self._names, found, strict=True))
        return (row,)

    def _match(self, value: str) -> list[str] | None:
        """Match in one pass: each part at its next occurrence. A star at the end matches the rest."""
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
    r"""`parse @message /user=(?<user>\w+)/`: adds the named groups as fields."""

    def __init__(self, of: Evaluator, regex: Regex) -> None:
        self._of = of
        self._regex = regex

    def feed(self, row: Record) -> Iterable[Record]:
        value = self._of(row)
        if value is None:
            return (row,)
        shown = text(value)
        if not row.affords(matching_work(len(shown), self._regex.instructions)):
            return (row,)
        found = self._regex.groups(shown)
        if found is not None:
            row.fields.update(found)
        return (row,)


class Stats(Stage):
    """`stats count(*) as n by bin(5m)`: one row for each group."""

    def __init__(
        self, results: Sequence[tuple[str, AggregateFactory]], by: Sequence[Expression], budget: Budget
    ) -> None:
        self._results = results
        self._by = by
        self._budget = budget
        self._groups: dict[tuple[str, ...], tuple[Record, list[Aggregate]]] = {}

    def feed(self, row: Record) -> Iterable[Record]:
        values = [column.evaluate(row) for column in self._by]
        key = tuple(map(text, values))
        known = self._groups.get(key)
        if known is None:
            self._budget.reserve(_GROUP_BYTES + _AGGREGATE_BYTES * len(self._results) + 2 * sum(map(weight, key)))
            record = Record()
            record.fields.update(zip((column.text for column in self._by), values, strict=True))
            known = self._groups[key] = (record, [make(self._budget) for _, make in self._results])
        for aggregate in known[1]:
            aggregate.add(row)
        return ()

    def end(self) -> Iterable[Record]:
        if not self._groups and not self._by:
            self._groups[()] = (Record(), [make(self._budget) for _, make in self._results])
        for row, aggregates in self._groups.values():
            for (name, _), aggregate in zip(self._results, aggregates, strict=True):
                row.fields[name] = aggregate.result()
            yield row


class SortKey(NamedTuple):
    """Expression to sort by, and its direction."""

    evaluate: Evaluator
    descending: bool


class Sort(Stage):
    """`sort`: keeps only as many rows as the result can contain."""

    def __init__(self, keys: Sequence[SortKey], most: int, budget: Budget) -> None:
        self._keys = keys
        self._most = most
        self._budget = budget
        self._rows: list[tuple[bytes, Record, int]] = []
        self._unsorted = 0

    def feed(self, row: Record) -> Iterable[Record]:
        key = b"".join([_place(one.evaluate(row), descending=one.descending) for one in self._keys])
        size = len(key) + row.rest()
        try:
            self._budget.reserve(size)
        except TooLarge:
            self._cut()
            self._budget.reserve(size)
        self._rows.append((key, row, size))
        self._unsorted += 1
        if self._unsorted >= MAX_UNSORTED:
            self._cut()
        return ()

    def _cut(self) -> None:
        self._rows.sort(key=itemgetter(0))
        self._budget.release(sum(size for _, _, size in self._rows[self._most :]))
        del self._rows[self._most :]
        self._unsorted = 0

    def end(self) -> Iterable[Record]:
        self._cut()
        self._rows.reverse()
        while self._rows:
            _, row, size = self._rows.pop()
            self._budget.release(size)
            yield row


_IS_NUMBER = 1
_SIGN_BIT = 1 << 63
_ALL_BITS = (1 << 64) - 1
_INVERTED = bytes(range(255, -1, -1))


def _place(value: Value, *, descending: bool) -> bytes:
    """Return bytes that sort like the values and compare fast. No place is a prefix of another."""
    kind, known, shown = order(value)
    place = bytes((kind,))
    if kind == _IS_NUMBER:
        (bits,) = unpack(">Q", pack(">d", known + 0.0))
        place += pack(">Q", bits ^ (_ALL_BITS if bits >= _SIGN_BIT else _SIGN_BIT))
    elif shown:
        place += shown.encode(errors="surrogatepass").replace(b"\0", b"\0\xff")
    place += b"\0\0"
    return place.translate(_INVERTED) if descending else place


class Limit(Stage):
    """`limit`: passes the first `most` rows."""

    def __init__(self, most: int) -> None:
        self._left = most

    def feed(self, row: Record) -> Iterable[Record]:
        self._left -= 1
        self.done = self._left <= 0
        return (row,) if self._left >= 0 else ()


class Dedup(Stage):
    """`dedup`: passes the first row of each combination of values."""

    def __init__(self, columns: Sequence[Evaluator], budget: Budget) -> None:
        self._columns = columns
        self._budget = budget
        self._seen: set[tuple[str, ...]] = set()

    def feed(self, row: Record) -> Iterable[Record]:
        key = tuple(text(column(row)) for column in self._columns)
        if key in self._seen:
            return ()
        self._budget.reserve(_AGGREGATE_BYTES + sum(map(weight, key)))
        self._seen.add(key)
        return (row,)


MakeStage = Callable[[Budget], Stage]
