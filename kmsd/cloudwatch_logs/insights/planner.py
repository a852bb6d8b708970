"""Compilation of a query's text to a plan, and execution of the plan."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from kmsd.cloudwatch_logs.insights.aggregates import AggregateFactory, aggregate
from kmsd.cloudwatch_logs.insights.commands import (
    Compute,
    Dedup,
    Filter,
    Limit,
    MakeStage,
    ParseGlob,
    ParseRegex,
    Sort,
    SortKey,
    Stage,
    Stats,
)
from kmsd.cloudwatch_logs.insights.parser import Evaluator, Expression, Parser, default_field
from kmsd.cloudwatch_logs.insights.rows import MESSAGE, PTR, TIMESTAMP, Record, weight
from kmsd.cloudwatch_logs.insights.stored_query import MalformedQuery
from kmsd.cloudwatch_logs.insights.values import number, text
from kmsd.cloudwatch_logs.work_budget import MAX_QUERY_BYTES, Budget

MAX_LIMIT = 100_000
MAX_COMMANDS = 50
Result = list[tuple[str, str]]
"""Row as it is shown: (field, value)."""


class Plan(msgspec.Struct):
    """Compiled query."""

    stages: list[MakeStage] = []
    columns: dict[str, None] = {}
    """Names of the shown columns, in this order."""
    chosen: bool = False
    """True if `display` determined the columns."""
    aggregated: bool = False
    sorted: bool = False
    limited: bool = False
    most: int = 0
    """Largest limit in the query."""
    instructions: int = 0
    """Steps that its regular expressions may take per byte of text."""
    grows: bool = False
    """True if a function may return a value that is longer than the event."""

    def run(self, most: int, *, multiple_groups: bool, budget: Budget | None = None) -> Run:
        """Start a run. Events of several groups do not arrive in order of time, so they are sorted by default."""
        if not self.limited:
            self.most = max(self.most, most)
        budget = budget or Budget(MAX_QUERY_BYTES)
        stages = [make(budget) for make in self.stages]
        if not self.sorted and not self.aggregated and multiple_groups:
            stages.append(Sort([SortKey(lambda row: row.get(TIMESTAMP), descending=True)], most, budget))
        if not self.limited:
            stages.append(Limit(most))
        columns = list(self.columns) or [TIMESTAMP, MESSAGE]
        return Run(stages, columns, budget, pointers=not self.aggregated)


class Run(msgspec.Struct):
    """Execution of a plan."""

    stages: Sequence[Stage]
    columns: Sequence[str]
    budget: Budget
    pointers: bool
    """True if each row is an event, with a pointer to it."""
    matched: int = 0
    """Events that passed all conditions before any aggregation."""
    results: list[Result] = []
    held: int = 0
    """Bytes of `results`."""

    @property
    def done(self) -> bool:
        """True if no further event can change the result."""
        return any(stage.done for stage in self.stages)

    def feed(self, row: Record) -> None:
        """Process an event. Raises `TooLarge`."""
        self._pass(row, 0)

    def _pass(self, row: Record, index: int) -> None:
        stages = self.stages
        while index < len(stages):
            stage = stages[index]
            passed = tuple(stage.feed(row))
            if isinstance(stage, Filter) and not passed:
                return
            index += 1
            if not passed:
                self.matched += isinstance(stage, Stats | Sort)
                return
            row = passed[0]
        self.matched += row.position > 0
        self._show(row)

    def end(self) -> None:
        """Finish after the last event: rows that stages held back are passed on. Raises `TooLarge`."""
        for _ in self.ending():
            pass

    def ending(self) -> Iterator[None]:
        """Do the work of `end`, row by row."""
        for index, stage in enumerate(self.stages):
            matched = self.matched
            for row in stage.end():
                self._pass(row, index + 1)
                yield
            self.matched = matched

    def drain(self) -> list[Result]:
        """Remove the finished rows from the results and the budget, and return them."""
        drained = self.results[:]
        self.results.clear()
        self.budget.release(self.held)
        self.held = 0
        return drained

    def _show(self, row: Record) -> None:
        shown = [(name, text(value)) for name in self.columns if (value := row.get(name)) is not None]
        if self.pointers and PTR not in self.columns:
            shown.append((PTR, text(row.get(PTR))))
        size = weight("") + sum(weight(value) for _, value in shown)
        self.budget.reserve(size)
        self.held += size
        self.results.append(shown)


def plan(query: str) -> Plan:
    """Compile a query. Raises `MalformedQuery`."""
    reader, found = Parser(query), Plan()
    if reader.has_ended():
        raise MalformedQuery("the query is empty")
    for _ in range(MAX_COMMANDS):
        command = reader.identifier("a command")
        read = _COMMANDS.get(command.lower())
        if read is None:
            raise MalformedQuery(f"the command {command} is not supported")
        read(reader, found)
        if reader.has_ended():
            found.instructions, found.grows = reader.instructions, reader.grows
            return found
        reader.expect("|")
    raise MalformedQuery(f"a query can have {MAX_COMMANDS} commands")


def _columns(reader: Parser) -> list[tuple[str, Expression]]:
    """Parse `a, b + 1 as c` into names and expressions."""
    found = []
    while True:
        expression = reader.expression()
        found.append((reader.identifier("a name") if reader.keyword("as") else expression.text.strip("`"), expression))
        if not reader.accept(","):
            return found


def _fields(reader: Parser, found: Plan) -> None:
    columns = _columns(reader)
    computed = [(name, expression.evaluate) for name, expression in columns]
    if found.aggregated:
        raise MalformedQuery("fields after stats is not supported; use display")
    found.stages.append(lambda _: Compute(computed))
    if not found.chosen:
        found.columns |= dict.fromkeys(name for name, _ in columns)


def _display(reader: Parser, found: Plan) -> None:
    columns = _columns(reader)
    computed = [(name, expression.evaluate) for name, expression in columns]
    found.stages.append(lambda _: Compute(computed))
    found.columns, found.chosen = dict.fromkeys(name for name, _ in columns), True


def _filter(reader: Parser, found: Plan) -> None:
    condition = reader.expression().evaluate
    found.stages.append(lambda _: Filter(condition))


def _parse(reader: Parser, found: Plan) -> None:
    of: Evaluator = default_field()
    regex = None
    glob = reader.string()
    if glob is None:
        regex = reader.regex()
    if glob is None and regex is None:
        name = reader.identifier()
        of = lambda row: row.get(name)  # noqa: E731
        glob = reader.string()
        regex = reader.regex() if glob is None else None
    names = _names(reader) if reader.keyword("as") else []
    if regex is not None:
        if not regex.names or names:
            reader.fail("a regular expression of parse has named groups, (?<name>…), and no 'as'")
        expression = regex
        found.stages.append(lambda _: ParseRegex(of, expression))
    elif glob is not None:
        if not names or glob.count("*") != len(names):
            reader.fail("parse needs as many names after 'as' as its text has stars")
        pattern = glob
        found.stages.append(lambda _: ParseGlob(of, pattern, names))
    else:
        reader.fail("a text with stars or /regular expression/ is expected")


def _names(reader: Parser) -> list[str]:
    names = [reader.identifier()]
    while reader.accept(","):
        names.append(reader.identifier())
    return names


def _stats(reader: Parser, found: Plan) -> None:
    results: list[tuple[str, AggregateFactory]] = [_aggregate(reader)]
    while reader.accept(","):
        results.append(_aggregate(reader))
    by: list[Expression] = []
    if reader.keyword("by"):
        by = [Expression(name, expression.evaluate) for name, expression in _columns(reader)]
    found.stages.append(lambda budget: Stats(results, by, budget))
    found.aggregated, found.sorted, found.limited = True, False, False
    names = [column.text for column in by] + [name for name, _ in results]
    found.columns, found.chosen = dict.fromkeys(names), False


def _aggregate(reader: Parser) -> tuple[str, AggregateFactory]:
    start = reader.at
    name = reader.identifier("a function such as count")
    reader.expect("(")
    of: Evaluator | None = None
    percent: float | None = None
    if not reader.accept("*") and not reader.query.startswith(")", reader.at):
        of = reader.expression().evaluate
        if reader.accept(","):
            percent = number(reader.expression().evaluate(Record()))
            if percent is None:
                reader.fail("a number is expected")
    reader.expect(")")
    written = reader.source_from(start)
    if not reader.has_ended() and reader.query[reader.at] in "+-*/%^":
        reader.fail("calculating with the results of stats is not supported")
    make = aggregate(name, of, percent)
    return (reader.identifier("a name") if reader.keyword("as") else written), make


def _sort(reader: Parser, found: Plan) -> None:
    keys = []
    while True:
        # A column of stats is named after its source text: `sort count(*) desc`.
        start = reader.at
        evaluate = _sorted_by(reader, found, start)
        keys.append(SortKey(evaluate, descending=reader.keyword("asc", "desc") == "desc"))
        if not reader.accept(","):
            break
    found.stages.append(lambda budget: Sort(keys, found.most, budget))
    found.sorted = True


def _sorted_by(reader: Parser, found: Plan, start: int) -> Evaluator:
    written = max(
        (name for name in found.columns if "(" in name and reader.query.startswith(name, start)), key=len, default=""
    )
    if written:
        reader.accept(written)
        return lambda row: row.get(written)
    return reader.expression().evaluate


def _limit(reader: Parser, found: Plan) -> None:
    wanted = number(reader.expression().evaluate(Record()))
    if wanted is None or not 1 <= wanted <= MAX_LIMIT or wanted != int(wanted):
        reader.fail(f"limit takes a number from 1 to {MAX_LIMIT}")
    most = int(wanted)
    found.stages.append(lambda _: Limit(most))
    found.limited, found.most = True, max(found.most, most)


def _dedup(reader: Parser, found: Plan) -> None:
    columns = [expression.evaluate for _, expression in _columns(reader)]
    found.stages.append(lambda budget: Dedup(columns, budget))


_COMMANDS = {
    "fields": _fields,
    "display": _display,
    "filter": _filter,
    "parse": _parse,
    "stats": _stats,
    "sort": _sort,
    "limit": _limit,
    "head": _limit,
    "dedup": _dedup,
}
