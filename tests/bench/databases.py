"""kmsd over PostgreSQL beside kmsd over SQLite: Encrypt and CreateKey, in one run, in turn.

    .venv/bin/python -m tests.bench.databases [--rounds 5] [--seconds 3] [--delay 1000] [--out FILE]

Two workers each, one server on this machine, by its Unix socket; and once more with a delay in each round trip to it
(microseconds). Prints as JSON the medians of the rounds, and their ratios; then these beside their aims. Needs wrk
and gcc.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.bench import report, servers
from tests.bench.results import count_name
from tests.bench.rounds import Taken, interleave
from tests.support.postgres import Cluster, new_cluster

SOURCE = Path(__file__).with_name("delay_proxy.c")
SOCKET = ".s.PGSQL.5432"
CREATORS = 16


@contextmanager
def delayed(server: Cluster, microseconds: int) -> Iterator[Path]:
    """A folder with a socket by which each round trip to the server takes longer."""
    with tempfile.TemporaryDirectory(prefix="kmsd-delay-") as folder:
        program = Path(folder) / "delay_proxy"
        subprocess.run(["gcc", "-O2", "-pthread", "-o", program, SOURCE], check=True)
        command = [program, Path(folder) / SOCKET, server.folder / SOCKET, str(microseconds)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE)
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            yield Path(folder)
        finally:
            process.kill()
            process.wait()


def store(url: str) -> str:
    """The table of kmsd.toml."""
    return f'[store]\nurl = "{url}"\n'


def ratios(taken: dict[str, dict[str, Taken]]) -> dict[str, float]:
    """What the figures are to each other; at one connection, the milliseconds more."""
    many, one, create = taken["64 connections"], taken["1 connection"], taken[f"CreateKey, {CREATORS} clients"]
    file, server, far = "SQLite", "PostgreSQL", "PostgreSQL, delayed"
    found = {
        "throughput": many[server].per_second / many[file].per_second,
        "throughput, delayed": many[far].per_second / many[server].per_second,
        "CPU": many[server].cpu_per_request / many[file].cpu_per_request,
        "ms more": (one[server].p50 - one[file].p50) / 1e3,
        "ms more, delayed": (one[far].p50 - one[server].p50) / 1e3,
        "CreateKey": create[server].per_second / create[file].per_second,
        "CreateKey, delayed": create[far].per_second / create[server].per_second,
    }
    return {name: round(value, 3) for name, value in found.items()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--delay", type=int, default=1000)
    report.add_options(parser, "databases")
    options, load = parser.parse_args(), os.getloadavg()[0]
    servers.make_bytecode()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = new_cluster()
        stack.callback(server.stop)
        far = stack.enter_context(delayed(server, options.delay))
        sites = {
            "SQLite": stack.enter_context(servers.kmsd(folder / "file")),
            "PostgreSQL": stack.enter_context(servers.kmsd(folder / "server", extra=store(server.url()))),
            "PostgreSQL, delayed": stack.enter_context(
                servers.kmsd(folder / "far", extra=store(server.url().replace(str(server.folder), str(far))))
            ),
        }
        encrypt = {name: (site, site.encrypt) for name, site in sites.items()}
        taken = {
            count_name(connections): interleave(
                encrypt, connections=connections, rounds=options.rounds, seconds=options.seconds
            )
            for connections in (64, 1)
        }
        create = {name: (site, site.signed("CreateKey", {})) for name, site in sites.items()}
        taken[f"CreateKey, {CREATORS} clients"] = interleave(
            create, connections=CREATORS, rounds=options.rounds, seconds=options.seconds
        )
    assert not any(one.errors for row in taken.values() for one in row.values()), taken
    shown = {row: {name: one.shown() for name, one in found.items()} for row, found in taken.items()}
    report.finish(options, {"ratios": ratios(taken), **shown}, load, "rounds", "seconds", "delay")


if __name__ == "__main__":
    main()
