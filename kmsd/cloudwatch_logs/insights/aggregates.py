"""Aggregate functions of `stats`: one value per group of rows, within the query's memory budget."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping

from kmsd.cloudwatch_logs.insights.parser import Evaluator
from kmsd.cloudwatch_logs.insights.rows import Record, weight
from kmsd.cloudwatch_logs.insights.stored_query import MalformedQuery
from kmsd.cloudwatch_logs.insights.values import Value, number, order, text
from kmsd.cloudwatch_logs.work_budget import Budget

_VALUE_BYTES = 40
"""Memory of a number in a list, in bytes."""
_FIRST_SORT = 4_096


class Aggregate(ABC):
    """Aggregate of one group of rows."""

    @abstractmethod
    def add(self, row: Record) -> None:
        """Include a row."""

    @abstractmethod
    def result(self) -> Value:
        """Return the value for all rows so far."""


class _Count(Aggregate):
    def __init__(self, of: Evaluator | None) -> None:
        self._of = of
        self._count = 0

    def add(self, row: Record) -> None:
        self._count += self._of is None or self._of(row) is not None

    def result(self) -> Value:
        return self._count


class _Distinct(Aggregate):
    def __init__(self, of: Evaluator, budget: Budget) -> None:
        self._of = of
        self._budget = budget
        self._seen: set[str] = set()

    def add(self, row: Record) -> None:
        value = self._of(row)
        if value is not None and (shown := text(value)) not in self._seen:
            self._budget.reserve(weight(shown))
            self._seen.add(shown)

    def result(self) -> Value:
        return len(self._seen)


class _Moments(Aggregate):
    """sum, avg, stddev; uses Welford's algorithm, to avoid cancellation."""

    def __init__(self, of: Evaluator, kind: str) -> None:
        self._of = of
        self._kind = kind
        self._count = 0
        self._sum: float = 0
        self._mean = self._square = 0.0

    def add(self, row: Record) -> None:
        value = number(self._of(row))
        if value is None:
            return
        self._count += 1
        self._sum += value
        away = value - self._mean
        self._mean += away / self._count
        self._square += away * (value - self._mean)

    def result(self) -> Value:
        if not self._count:
            return None
        match self._kind:
            case "sum":
                return self._sum
            case "avg":
                return self._mean
            case _:
                return math.sqrt(self._square / self._count)


class _Extreme(Aggregate):
    """min, max, sortsFirst, sortsLast, earliest, latest."""

    def __init__(self, of: Evaluator, budget: Budget, *, largest: bool, by_time: bool = False) -> None:
        self._of = of
        self._budget = budget
        self._weight = 0
        self._largest = largest
        self._by_time = by_time
        self._best: tuple[tuple[int, float, str], Value] | None = None

    def add(self, row: Record) -> None:
        value = self._of(row)
        if value is None:
            return
        place = order(row.get("@timestamp") if self._by_time else value)
        if self._best is None or (place > self._best[0] if self._largest else place < self._best[0]):
            size = weight(value) + weight(place[2])
            self._budget.reserve(size - self._weight)
            self._weight = size
            self._best = (place, value)

    def result(self) -> Value:
        return None if self._best is None else self._best[1]


class _Percentile(Aggregate):
    def __init__(self, of: Evaluator, percent: float, budget: Budget) -> None:
        self._of = of
        self._percent = percent
        self._budget = budget
        self._values: list[float] = []
        self._sort_at = _FIRST_SORT

    def add(self, row: Record) -> None:
        value = number(self._of(row))
        if value is not None:
            self._budget.reserve(_VALUE_BYTES)
            self._values.append(float(value))
            if len(self._values) >= self._sort_at:
                # Sort in increments: the sorted part is only merged, so no single sort takes long.
                self._values.sort()
                self._sort_at = len(self._values) + max(_FIRST_SORT, len(self._values) // 16)

    def result(self) -> Value:
        if not self._values:
            return None
        self._values.sort()
        place = self._percent / 100 * (len(self._values) - 1)
        low = math.floor(place)
        high = min(low + 1, len(self._values) - 1)
        return self._values[low] + (self._values[high] - self._values[low]) * (place - low)


AggregateFactory = Callable[[Budget], Aggregate]


def _extreme(*, largest: bool, by_time: bool = False) -> Callable[[Evaluator], AggregateFactory]:
    return lambda of: lambda budget: _Extreme(of, budget, largest=largest, by_time=by_time)


def _moments(kind: str) -> Callable[[Evaluator], AggregateFactory]:
    return lambda of: lambda _: _Moments(of, kind)


_ONE_FIELD: Mapping[str, Callable[[Evaluator], AggregateFactory]] = {
    "count": lambda of: lambda _: _Count(of),
    "count_distinct": lambda of: lambda budget: _Distinct(of, budget),
    "sum": _moments("sum"),
    "avg": _moments("avg"),
    "stddev": _moments("stddev"),
    "min": _extreme(largest=False),
    "max": _extreme(largest=True),
    "median": lambda of: lambda budget: _Percentile(of, 50, budget),
    "earliest": _extreme(largest=False, by_time=True),
    "latest": _extreme(largest=True, by_time=True),
    "sortsfirst": _extreme(largest=False),
    "sortslast": _extreme(largest=True),
}


def aggregate(name: str, of: Evaluator | None, percent: float | None) -> AggregateFactory:
    """Return the factory of an aggregate; `of` None: `count(*)`. Raises `MalformedQuery`."""
    lowered = name.lower()
    if lowered in ("pct", "percentile"):
        if of is None or percent is None or not 0 <= percent <= 100:  # noqa: PLR2004 (per cent)
            raise MalformedQuery(f"{name} takes a field and a number from 0 to 100")
        return lambda budget: _Percentile(of, percent, budget)
    if percent is not None:
        raise MalformedQuery(f"the function {name} takes one argument")
    if of is None:
        if lowered != "count":
            raise MalformedQuery(f"the function {name} takes one argument")
        return lambda _: _Count(None)
    known = _ONE_FIELD.get(lowered)
    if known is None:
        raise MalformedQuery(f"the function {name} is not supported in stats")
    return known(of)
