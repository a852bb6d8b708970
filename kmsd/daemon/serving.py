"""What a worker and a stand-in have in common: the listener, its limits, and the word that it serves."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable
from contextlib import suppress

from kmsd.config.settings import Config
from kmsd.config.snapshot import tls_files
from kmsd.daemon.worker_spec import READY, WorkerSpec
from kmsd.wire.http.server import Listener, TransportLimits, inherited
from kmsd.wire.http.tls import tls_context


def listener_of(lines: WorkerSpec) -> Listener:
    """The socket that the parent bound, with TLS if it has a certificate."""
    return Listener(inherited(lines.listener), tls_context(*tls_files(lines.tls)) if lines.tls else None)


def limits_of(config: Config) -> TransportLimits:
    """The transport's limits."""
    given = config.listen
    return TransportLimits(
        header_seconds=given.header_seconds,
        body_seconds=given.body_seconds,
        keep_alive_seconds=given.keepalive_seconds,
        connections=given.connections,
    )


def report_ready(descriptor: int, end: Callable[[], None]) -> None:
    """Tell the parent, and close the descriptor; `end` is called if it has given up waiting."""
    try:
        os.write(descriptor, READY)
    except BrokenPipeError:
        end()
    os.close(descriptor)


def allow_descriptors() -> None:
    """Raise the limit of open files to what the host lets a process have: each connection is one."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError):  # a system call filter may forbid it; the unit has then set what is allowed
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
