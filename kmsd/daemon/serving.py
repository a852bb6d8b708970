"""Functions shared by worker and stand-in: the listener, its limits, and the ready report."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable
from contextlib import suppress

from kmsd.config.sections import Config
from kmsd.config.snapshot import tls_files
from kmsd.daemon.worker_spec import READY, WorkerSpec
from kmsd.wire.http.server import Listener, TransportLimits, inherited
from kmsd.wire.http.tls import tls_context


def listener_of(spec: WorkerSpec, *, is_shared: bool = False) -> Listener:
    """Return the socket that the parent bound, with TLS if it has a certificate."""
    tls = tls_context(*tls_files(spec.tls)) if spec.tls else None
    return Listener(inherited(spec.listener), tls, is_shared)


def limits_of(config: Config) -> TransportLimits:
    """Return the limits of the HTTP transport."""
    given = config.listen
    return TransportLimits(
        header_seconds=given.header_seconds,
        body_seconds=given.body_seconds,
        keep_alive_seconds=given.keepalive_seconds,
        connections=given.connections,
    )


def report_ready(descriptor: int, end: Callable[[], None]) -> None:
    """Write `READY` to the parent. Calls `end` if the parent has stopped waiting."""
    try:
        os.write(descriptor, READY)
    except BrokenPipeError:
        end()


def allow_descriptors() -> None:
    """Raise the limit of open files to the hard limit: each connection is one file."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError):  # a seccomp filter may forbid it; the unit has then set the limit
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
