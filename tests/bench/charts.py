"""Draw the charts of docs/performance.md from the published results (scripts/performance-page).

    python -m tests.bench.charts

Needs matplotlib alone (requirements-bench.txt), in an environment of its own. The same results give the same bytes.
"""

from __future__ import annotations

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tests.bench.performance_page import TITLES, Chart, charts, digest
from tests.bench.results import PUBLISHED, published

STYLES = {
    "kmsd, durable": {"color": "#0b5394", "marker": "o", "linewidth": 2.2},
    "kmsd, flushed": {"color": "#0b5394", "marker": "o", "linestyle": "--"},
    "ceiling": {"color": "#555555", "marker": "s"},
    "OpenBao": {"color": "#b45f06", "marker": "^"},
    "OpenBao, audited": {"color": "#b45f06", "marker": "^", "linestyle": "--"},
}
"""Colours that are told apart without green and red; a second line of a server is dashed."""


def lines(axes: Axes, chart: Chart) -> None:
    """One line for each server, over connections."""
    for name, values in chart.items():
        axes.plot([int(count) for count in values], list(values.values()), label=name, **STYLES[name])
    counts = sorted({int(count) for values in chart.values() for count in values})
    axes.set_xscale("log", base=2)
    axes.set_xticks(counts, [str(count) for count in counts])
    axes.set_xlabel("connections")
    axes.grid(visible=True, color="#dddddd", linewidth=0.6)
    axes.legend(frameon=False)


def bars(axes: Axes, chart: Chart) -> None:
    """One bar for each layer, in the order of the request, with its value."""
    ((unit, values),) = chart.items()
    names = [name.partition(" (")[0] for name in values]
    drawn = axes.barh(names, list(values.values()), color="#0b5394", height=0.65)
    axes.bar_label(drawn, fmt="%.3g", padding=4)
    axes.invert_yaxis()
    axes.set_xlabel(unit)
    axes.margins(x=0.08)


def draw(name: str, chart: Chart) -> None:
    """Write one chart, on a white ground that is readable in light and dark pages."""
    figure = Figure(figsize=(9, 4.4), layout="constrained", facecolor="white")
    axes = figure.add_subplot()
    if name == "budget":
        bars(axes, chart)
    else:
        lines(axes, chart)
        if name == "p99":
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter("{x:g}")
        else:
            axes.set_ylim(bottom=0)
            axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.set_title(TITLES[name], loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    metadata = {"Date": None, "Creator": None, "Description": digest(chart)}
    figure.savefig(PUBLISHED.with_name(f"{name}.svg"), metadata=metadata)


def main() -> None:
    """Draw all that have data."""
    fonts = {"font.size": 11, "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial"]}
    mpl.rcParams.update({"svg.hashsalt": "kmsd", "svg.fonttype": "none", **fonts})
    for name, chart in charts(published()).items():
        draw(name, chart)


if __name__ == "__main__":
    main()
