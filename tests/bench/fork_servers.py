"""kmsd's fork server and multiprocessing's: time to the first worker and to the next ones, and memory.

    python -m tests.bench.fork_servers [--rounds 7] [--workers 4]

Both import and freeze the same modules. A worker writes one byte and waits. Each round is a program of its own.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from kmsd.daemon import fork_server
from kmsd.daemon.fork_server import ForkServer, SpawnRequest
from kmsd.linux.prctl import adopt_orphans

PRELOAD = "tests.bench.fork_servers_preload"
Start = Callable[[int], None]
"""Starts a worker that writes to this descriptor."""


def pss(pids: list[int]) -> float:
    """Memory of processes in MiB, with each shared page counted by its share."""
    lines = [line for pid in pids for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()]
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def descendants(pid: int) -> list[int]:
    """A process's children, their children, and so on."""
    children = [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return children + [far for child in children for far in descendants(child)]


def work(descriptor: int) -> None:
    """What a worker does here."""
    os.write(descriptor, b"x")
    time.sleep(60)


def ours() -> Start:
    """Start workers by kmsd's fork server."""
    server = ForkServer.forked()
    if server is None:
        fork_server.preload_modules()
        request = fork_server._serve()
        if request is not None:
            work(request.descriptors[0])
        os._exit(0)
    return lambda descriptor: server.order(SpawnRequest(b"x", (descriptor,)))


def theirs() -> Start:
    """Start workers by multiprocessing's."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([PRELOAD])

    def start(descriptor: int) -> None:
        context.Process(target=work_there, args=(socket.socket(fileno=os.dup(descriptor)),), daemon=True).start()

    return start


def work_there(channel: socket.socket) -> None:
    """`work`, where the descriptor comes as a socket that multiprocessing can pass on."""
    work(channel.fileno())


def one_round(kind: str, workers: int) -> None:
    """Print the figures of one round as JSON."""
    adopt_orphans()  # the fork server's workers are children of this process, as they are of `kmsd serve`
    begun, times = time.monotonic(), []
    start = {"kmsd": ours, "multiprocessing": theirs}[kind]()
    for _ in range(workers):
        mine, given = socket.socketpair()
        start(given.fileno())
        mine.recv(1)
        times.append(time.monotonic() - begun)
        begun = time.monotonic()
    time.sleep(0.2)
    pids = [pid for pid in descendants(os.getpid()) if Path(f"/proc/{pid}/smaps_rollup").exists()]
    print(
        json.dumps({"first": times[0], "next": statistics.median(times[1:]), "pss": pss(pids), "processes": len(pids)})
    )
    sys.stdout.flush()
    for pid in pids:
        os.kill(pid, 9)
    os._exit(0)


def main() -> None:
    """Print the medians of both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--one", choices=("kmsd", "multiprocessing"), help="one round, for the program itself")
    options = parser.parse_args()
    if options.one:
        one_round(options.one, options.workers)
    found: dict[str, list[dict[str, float]]] = {"kmsd": [], "multiprocessing": []}
    for _ in range(options.rounds):
        for kind, rows in found.items():
            command = [
                sys.executable,
                "-m",
                "tests.bench.fork_servers",
                "--one",
                kind,
                "--workers",
                str(options.workers),
            ]
            rows.append(json.loads(subprocess.run(command, check=True, capture_output=True, timeout=60).stdout))
    for kind, rows in found.items():
        print(kind, {name: round(statistics.median(row[name] for row in rows), 4) for name in rows[0]})


if __name__ == "__main__":
    main()
