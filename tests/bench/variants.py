"""Variants of kmsd beside the unchanged tree, in turn, in one run: throughput, p50, p99, CPU of a worker per request.

    .venv/bin/python -m tests.bench.variants [NAME ...] [--tree NAME=FOLDER] [--interpreter NAME=PROGRAM]
        [--connections 64 8 1] [--rounds 5] [--seconds 2] [--workers 1] [--control] [--out FILE]

A NAME is a row of `variant_table.VARIANTS`: a copy of kmsd/ with texts replaced. `--tree` adds a copy that was prepared
elsewhere (FOLDER holds kmsd/), `--interpreter` the unchanged tree under another Python, whose packages are those of
requirements.txt. `--control` adds the unchanged tree once more: what differs between the two is noise. Everything
is durable. One worker is the default: with two, CPU time depends on how the connections divide. Needs wrk.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import kmsd as package
from tests.bench import servers, wrk
from tests.bench.rounds import Load, Taken, interleave
from tests.bench.variant import Edit
from tests.bench.variant_table import VARIANTS
from tests.support.daemon import Daemon, provisioned

UNCHANGED = "unchanged"


@dataclass(frozen=True)
class Built:
    """Code to run: the folder that holds kmsd/, the interpreter, and variables."""

    folder: Path
    python: str = sys.executable
    environment: dict[str, str] = field(default_factory=dict)


def figures(taken: Taken) -> dict[str, list[float]]:
    """What was seen of one variant, a value for each round."""
    return {
        "per_second": [result.per_second for result in taken.results],
        "cpu_us": taken.cpu,
        "p50_us": [result.p50 for result in taken.results],
        "p99_us": [result.p99 for result in taken.results],
    }


def ratios(ours: list[float], theirs: list[float]) -> list[float]:
    """Least, median and greatest of the ratios in the same round."""
    each = sorted(mine / other for mine, other in zip(ours, theirs, strict=True))
    return [each[0], statistics.median(each), each[-1]]


def copied(folder: Path, edits: Sequence[Edit]) -> Path:
    """A copy of the package below `folder`, changed. Raises AssertionError if a text is not there exactly once."""
    tree = folder / package.__name__
    shutil.copytree(next(iter(package.__path__)), tree, ignore=shutil.ignore_patterns("__pycache__"))
    for name, old, new in edits:
        text = (tree / name).read_text()
        assert text.count(old) == 1, f"{name}: {text.count(old)} times: {old}"
        (tree / name).write_text(text.replace(old, new))
    return folder


def builds(place: Path, options: argparse.Namespace) -> dict[str, Built]:
    """All that is to be measured, by name; the unchanged tree first."""
    found = {UNCHANGED: Built(copied(place / "0", ()))}
    if options.control:
        found["unchanged again"] = Built(copied(place / "1", ()))
    for number, name in enumerate(options.names, 2):
        variant = VARIANTS[name]
        found[name] = Built(copied(place / str(number), variant.edits), environment=dict(variant.environment))
    for text in options.tree:
        name, _, folder = text.partition("=")
        found[name] = Built(Path(folder).resolve())
    for text in options.interpreter:
        name, _, program = text.partition("=")
        found[name] = Built(copied(place / f"under {len(found)}", ()), program)
    return found


@contextmanager
def running(folder: Path, built: Built, workers: int) -> Iterator[servers.Site]:
    """A daemon of that code, with one key."""
    environment = {"PYTHONPATH": str(built.folder), **built.environment}
    with servers.changed(environment):
        subprocess.run([built.python, "-m", "compileall", "-q", built.folder / "kmsd"], check=True)
        where = "import kmsd, sys; sys.stdout.write(kmsd.__file__)"
        found = subprocess.check_output([built.python, "-c", where], cwd=built.folder, text=True)
        assert Path(found).parent == built.folder / "kmsd", found
    folder.mkdir()
    with provisioned(folder, workers=workers) as daemon:
        with servers.changed(environment), (folder / "serve.log").open("ab") as log:
            command = [built.python, "-m", package.__name__, "--config", str(daemon.config), "serve"]
            daemon.process = subprocess.Popen(command, cwd=built.folder, stdout=log, stderr=log)
        servers.wait_for_log(daemon, 0)
        yield site_of(daemon)


def site_of(daemon: Daemon) -> servers.Site:
    """The running daemon, with a new key."""
    key_id = daemon.client().create_key()["KeyMetadata"]["KeyId"]
    members: dict[str, object] = {"KeyId": key_id, "Plaintext": servers.PLAINTEXT}
    encrypt = wrk.signed(daemon.endpoint, daemon.admin, "Encrypt", members)
    return servers.Site(daemon.endpoint, encrypt, daemon.workers(), daemon, key_id)


def table(connections: int, taken: dict[str, Taken]) -> str:
    """Medians, and in brackets the ratio to the unchanged tree: least, median, greatest of the rounds."""
    lines = [f"\n{connections} connections: medians, and the median (least to greatest) of the rounds' ratios"]
    base = figures(taken[UNCHANGED])
    for name, one in taken.items():
        cells = []
        for label, values in figures(one).items():
            least, middle, most = ratios(values, base[label])
            cells.append(f"{label} {statistics.median(values):7.1f} {middle:.3f} ({least:.2f} to {most:.2f})")
        lines.append(f"{name:28} {'  '.join(cells)}{f'  ERRORS {one.errors}' if one.errors else ''}")
    return "\n".join(lines) + "\n"


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(VARIANTS))
    parser.add_argument("--tree", action="append", default=[], metavar="NAME=FOLDER")
    parser.add_argument("--interpreter", action="append", default=[], metavar="NAME=PROGRAM")
    parser.add_argument("--connections", type=int, nargs="+", default=[64, 8, 1])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--control", action="store_true")
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


def main() -> None:
    """Measure, print tables, and write JSON if asked."""
    options = arguments()
    report: dict[str, object] = {
        "python": platform.python_version(),
        "kernel": platform.release(),
        "workers": options.workers,
        "load average": os.getloadavg(),
    }
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        place = Path(name)
        sites = {
            label: stack.enter_context(running(place / f"data {number}", built, options.workers))
            for number, (label, built) in enumerate(builds(place, options).items())
        }
        for connections in options.connections:
            loads: dict[str, tuple[servers.Site | None, Load]] = {
                label: (site, site.encrypt) for label, site in sites.items()
            }
            taken = interleave(loads, connections=connections, rounds=options.rounds, seconds=options.seconds)
            sys.stdout.write(table(connections, taken))
            sys.stdout.flush()
            report[f"{connections} connections"] = {
                label: {**figures(one), "errors": one.errors} for label, one in taken.items()
            }
        sizes = {label: round(site.memory(), 1) for label, site in sites.items()}
        sys.stdout.write(f"\nPSS of the workers, MiB: {sizes}\n")
        report["PSS MiB"] = sizes
    if options.out is not None:
        options.out.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
