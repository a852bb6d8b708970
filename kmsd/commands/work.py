"""`kmsd worker`: the process that `kmsd serve` starts, and nobody else."""

from __future__ import annotations

import argparse
import os
from typing import Any

from kmsd import worker
from kmsd.accepted import tls_files
from kmsd.config import Config
from kmsd.logs import set_up


def add_to(commands: Any) -> None:
    """Declare the command."""
    command: argparse.ArgumentParser = commands.add_parser("worker")
    for name in ("--index", "--listener", "--ready", "--life"):
        command.add_argument(name, type=int, required=True)
    command.add_argument("--hold", type=int, help="read one byte from this descriptor before anything else")
    command.add_argument("--tls", type=int, nargs="*", default=())
    command.set_defaults(run=work)


async def work(config: Config, options: argparse.Namespace) -> int:
    """One worker, on the socket and pipes of its parent."""
    set_up(f"worker-{options.index}")
    if options.hold is not None and not os.read(options.hold, 1):
        return 0  # the first worker did not come to serve
    tls = tls_files(tuple(options.tls)) if options.tls else None
    return await worker.run(config, worker.Lines(options.index, options.listener, options.ready, options.life, tls))
