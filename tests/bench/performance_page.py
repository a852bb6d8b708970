"""docs/performance.md from docs/performance/results.json and a template (scripts/performance-page).

    .venv/bin/python -m tests.bench.performance_page [--check] [results.json ...]

Rows in the files that are named replace the published ones first. The charts are drawn by `tests.bench.charts`.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from tests.bench.aims import BUDGET, COHORTS, CONNECTIONS, SERIES, TABLES
from tests.bench.figures import Figure, amount
from tests.bench.results import PUBLISHED, ROOT, Results, count_name, find, merge, published

PAGE = ROOT / "docs" / "performance.md"
TEMPLATE = Path(__file__).with_name("performance_page.md")
Chart = dict[str, dict[str, float]]
"""Lines, or one set of bars, by name; values by their place on the axis."""
TITLES = {
    "throughput": "Requests a second over connections",
    "p99": "p99 in milliseconds over connections",
    "budget": "Microseconds of CPU time by layer",
}


def over_connections(results: Results, member: str, scale: float) -> Chart:
    """Lines of the charts over connections; none if fewer than two counts were measured."""
    lines: Chart = {}
    for side, label in SERIES.items():
        places = {count: f"throughput > {count_name(count)} > {side} > {member}" for count in CONNECTIONS}
        found = {str(count): find(results, place) for count, place in places.items()}
        line = {count: round(value * scale, 3) for count, value in found.items() if value is not None}
        if len(line) > 1:
            lines[label] = line
    return lines


def charts(results: Results) -> dict[str, Chart]:
    """The data of every chart that has any."""
    layers = {label: find(results, place) for label, place in BUDGET.items()}
    budget = {label: value for label, value in layers.items() if value is not None}
    found = {
        "throughput": over_connections(results, "per second", 1),
        "p99": over_connections(results, "p99 us", 1e-3),
        "budget": {"µs": budget} if budget else {},
    }
    return {name: chart for name, chart in found.items() if chart}


def digest(chart: Chart) -> str:
    """A mark in the drawn file, by which a test finds that it shows other data than the results have."""
    return sha256(json.dumps(chart).encode()).hexdigest()


def image(name: str, chart: Chart) -> str:
    """A link to the drawn chart; the alternative text has its values."""
    lines = (
        f"{line}: ".removeprefix("µs: ")
        + ", ".join(f"{place.partition(' (')[0]}: {amount(value)}" for place, value in values.items())
        for line, values in chart.items()
    )
    return f"![{TITLES[name]}. {'; '.join(lines)}.](performance/{name}.svg)"


def table(heading: str, figures: tuple[Figure, ...], results: Results) -> Iterator[str]:
    """Lines of a table: what, aim, measured. A missed aim makes the value bold."""
    yield f"| {heading} | aim | measured |"
    yield "|---|---|---|"
    for figure in figures:
        value = figure.shown(results)
        detail = figure.detail.shown(results) if figure.detail else ""
        measured = (f"**{value}**" if figure.is_missed(results) else value) + (f" ({detail})" if detail else "")
        yield f"| {figure.label} | {figure.aim or '–'} | {measured} |"


def budget(results: Results) -> Iterator[str]:
    """Lines of the table of layers."""
    yield "| layer | µs, alone |"
    yield "|---|---|"
    for label, place in BUDGET.items():
        value = find(results, place)
        yield f"| {label} | {'–' if value is None else amount(value)} |"


def cohorts(results: Results) -> Iterator[str]:
    """Lines of the table of calls that are runnable at once."""
    values = [find(results, place) for place in COHORTS.values()]
    yield f"| runnable calls | {' | '.join(COHORTS)} |"
    yield "|---" * (len(COHORTS) + 1) + "|"
    yield f"| µs of each | {' | '.join('–' if value is None else amount(value) for value in values)} |"


def runs(results: Results) -> Iterator[str]:
    """Lines of the table of rows: when and where each was measured. Rows of one run share a line."""
    yield "| rows | measured | how | on |"
    yield "|---|---|---|---|"
    alike: defaultdict[tuple[str, str, str], list[str]] = defaultdict(list)
    loads: defaultdict[tuple[str, str, str], list[float]] = defaultdict(list)
    for name, row in results.items():
        how = ", ".join(f"{option} {value}" for option, value in row["options"].items() if option != "load")
        where = ", ".join(f"{what} {value}" for what, value in row["machine"].items())
        mark = " (an earlier edition)" if row["measured"] == "earlier" else ""
        run = f"{row['date']}{mark}", how, where
        alike[run].append(f"`{name}`")
        loads[run] += [row["options"]["load"]] if "load" in row["options"] else []
    for run, names in alike.items():
        date, how, where = run
        load = f"load average at most {max(loads[run])}" if loads[run] else ""
        yield f"| {', '.join(names)} | {date} | {', '.join(filter(None, (how, load))) or '–'} | {where} |"


def page(results: Results) -> str:
    """docs/performance.md. Raises KeyError if the prose has a figure that the results do not have."""
    drawn = charts(results)

    def block(match: re.Match[str]) -> str:
        kind, name, heading = match["kind"], match["name"], match["heading"] or ""
        if kind == "chart":
            return image(name, drawn[name]) + "\n\n" if name in drawn else ""
        lines = {"budget": budget, "cohorts": cohorts, "runs": runs}.get(name)
        return "\n".join(lines(results) if lines else table(heading, TABLES[name], results)) + "\n\n"

    def value(match: re.Match[str]) -> str:
        found = find(results, match["path"])
        if found is None:
            raise KeyError(match["path"])
        return amount(found)

    text = TEMPLATE.read_text()
    text = re.sub(r"<!-- (?P<kind>chart|table): (?P<name>\w+)(?: \| (?P<heading>.*?))? -->\n\n?", block, text)
    return re.sub(r"\{\{(?P<path>[^{}]+)\}\}", value, text).rstrip() + "\n"


def stale_charts(results: Mapping[str, Any]) -> list[str]:
    """Names of charts that are not drawn, or show other data."""
    return [
        name
        for name, chart in charts(dict(results)).items()
        if not (path := PUBLISHED.with_name(f"{name}.svg")).exists() or digest(chart) not in path.read_text()
    ]


def main() -> int:
    """Merge, and write the page, or with --check compare it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="fail if page or charts are not current")
    parser.add_argument("results", nargs="*", type=Path)
    options = parser.parse_args()
    if not options.check:
        merge(options.results)
        PAGE.write_text(page(published()))
        return 0
    stale = [f"{name}.svg" for name in stale_charts(published())]
    if PAGE.read_text() != page(published()):
        stale.append(PAGE.name)
    for name in stale:
        sys.stderr.write(f"{name} is not current: run scripts/performance-page\n")
    return int(bool(stale))


if __name__ == "__main__":
    raise SystemExit(main())
