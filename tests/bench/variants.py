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
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import kmsd as package
from tests.bench import servers, wrk
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


@dataclass
class Seen:
    """Figures of one variant, a value for each round."""

    per_second: list[float] = field(default_factory=list)
    cpu_us: list[float] = field(default_factory=list)
    p50_us: list[float] = field(default_factory=list)
    p99_us: list[float] = field(default_factory=list)
    errors: int = 0

    def medians(self) -> dict[str, float]:
        """Of the rounds."""
        return {name: statistics.median(values) for name, values in self._lists()}

    def ratios(self, base: Seen) -> dict[str, list[float]]:
        """Least, median and greatest of the ratios to another variant in the same round."""
        found = {}
        for (name, ours), (_, theirs) in zip(self._lists(), base._lists(), strict=True):
            each = sorted(mine / other for mine, other in zip(ours, theirs, strict=True))
            found[name] = [round(value, 3) for value in (each[0], statistics.median(each), each[-1])]
        return found

    def _lists(self) -> list[tuple[str, list[float]]]:
        return [(name, value) for name, value in vars(self).items() if isinstance(value, list)]


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
    start = [built.python, "-m", package.__name__]
    with servers.changed(environment):
        subprocess.run([built.python, "-m", "compileall", "-q", built.folder / "kmsd"], check=True)
        where = "import kmsd, sys; sys.stdout.write(kmsd.__file__)"
        found = subprocess.check_output([built.python, "-c", where], cwd=built.folder, text=True)
        assert Path(found).parent == built.folder / "kmsd", found
    folder.mkdir()
    with provisioned(folder, workers=workers) as daemon:
        with servers.changed(environment), (folder / "serve.log").open("ab") as log:
            command = [*start, "--config", str(daemon.config), "serve"]
            daemon.process = subprocess.Popen(command, cwd=built.folder, stdout=log, stderr=log)
        servers.wait_for_log(daemon, 0)
        yield site_of(daemon)


def site_of(daemon: Daemon) -> servers.Site:
    """The running daemon, with a new key."""
    key_id = daemon.client().create_key()["KeyMetadata"]["KeyId"]
    members: dict[str, object] = {"KeyId": key_id, "Plaintext": servers.PLAINTEXT}
    encrypt = wrk.signed(daemon.endpoint, daemon.admin, "Encrypt", members)
    return servers.Site(daemon.endpoint, encrypt, daemon.workers(), daemon, key_id)


def cpu_seconds(site: servers.Site) -> float:
    """User and system time of its workers, to the microsecond: clock_getcpuclockid(3) of each."""
    return sum(time.clock_gettime(~pid << 3 | 2) for pid in site.pids)


def measured(sites: dict[str, servers.Site], connections: int, rounds: int, seconds: float) -> dict[str, Seen]:
    """Rounds of all in turn, after one second each to warm up."""
    seen = {name: Seen() for name in sites}
    for site in sites.values():
        wrk.run(site.encrypt, connections=connections, seconds=1)
    for _ in range(rounds):
        for name, site in sites.items():
            before = cpu_seconds(site)
            result = wrk.run(site.encrypt, connections=connections, seconds=seconds)
            spent, one = cpu_seconds(site) - before, seen[name]
            one.per_second.append(result.per_second)
            one.cpu_us.append(spent / (result.per_second * seconds) * 1e6)
            one.p50_us.append(result.p50)
            one.p99_us.append(result.p99)
            one.errors += result.errors
    return seen


def table(connections: int, seen: dict[str, Seen]) -> str:
    """Medians, and in brackets the ratio to the unchanged tree: least, median, greatest of the rounds."""
    lines = [f"\n{connections} connections: medians, and the median (least to greatest) of the rounds' ratios"]
    for name, one in seen.items():
        ratios = one.ratios(seen[UNCHANGED])
        cells = [
            f"{label} {value:7.1f} {ratios[label][1]:.3f} ({ratios[label][0]:.2f} to {ratios[label][2]:.2f})"
            for label, value in one.medians().items()
        ]
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
            seen = measured(sites, connections, options.rounds, options.seconds)
            sys.stdout.write(table(connections, seen))
            sys.stdout.flush()
            report[f"{connections} connections"] = {label: vars(one) for label, one in seen.items()}
        sizes = {label: round(site.memory(), 1) for label, site in sites.items()}
        sys.stdout.write(f"\nPSS of the workers, MiB: {sizes}\n")
        report["PSS MiB"] = sizes
    if options.out is not None:
        options.out.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
