"""Figures of the benchmarks: their aims, their places in the results, and how they are written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tests.bench.results import find


@dataclass(frozen=True, slots=True)
class Aim:
    """A bound that a figure should keep."""

    value: float
    is_most: bool
    besides: str = ""
    """Is added to the bound on the page."""

    def is_met_by(self, measured: float) -> bool:
        """True if the figure keeps the bound."""
        return measured <= self.value if self.is_most else measured >= self.value

    def __str__(self) -> str:
        return f"at {'most' if self.is_most else 'least'} {self.value:g}{self.besides}"


def at_most(value: float, besides: str = "") -> Aim:
    """An upper bound."""
    return Aim(value, True, besides)


def at_least(value: float) -> Aim:
    """A lower bound."""
    return Aim(value, False)


@dataclass(frozen=True, slots=True)
class Detail:
    """The absolute figures of a ratio: first, and beside it second."""

    first: str
    second: str | None
    unit: str

    def shown(self, results: Mapping[str, Any]) -> str:
        """As `6,990 a second beside 3,900`; empty if neither was measured."""
        first = find(results, self.first)
        second = None if self.second is None else find(results, self.second)
        if first is None:
            return ""
        return f"{amount(first)} {self.unit}" + ("" if second is None else f" beside {amount(second)}")


def amount(value: float) -> str:
    """Three digits, or all before the point."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of a table."""

    label: str
    at: str
    """Place in the results (`results.find`)."""
    aim: Aim | None = None
    detail: Detail | None = None
    unit: str = ""
    """Empty for ratios and counts."""

    def is_missed(self, results: Mapping[str, Any]) -> bool:
        """True if it was measured and does not keep its aim."""
        value = find(results, self.at)
        return value is not None and self.aim is not None and not self.aim.is_met_by(value)

    def shown(self, results: Mapping[str, Any]) -> str:
        """The value with as many digits as show whether the aim is met; a dash if it was not measured."""
        value = find(results, self.at)
        if value is None:
            return "–"
        text = ""
        for digits in (2, 3, 4):
            text = f"{value:,}" if isinstance(value, int) else f"{value:,.{digits}f}"
            if self.aim is None or self.aim.is_met_by(float(text.replace(",", ""))) == self.aim.is_met_by(value):
                break
        return f"{text} {self.unit}".rstrip()
