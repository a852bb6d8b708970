"""Descriptors and parameters that a worker gets from its parent, and its replies.

The fork server passes the request on unread: descriptors, and a short JSON text.
"""

from __future__ import annotations

import os
from typing import NamedTuple, Self

import msgspec

from kmsd.cloudwatch_logs.ports import SegmentsError, SegmentsUnavailable
from kmsd.daemon.fork_server import SpawnRequest
from kmsd.exit_codes import EXIT_CONFIG, EXIT_PIN_REFUSED, EXIT_UNAVAILABLE
from kmsd.ports import (
    AuditUnavailable,
    ModuleUnusable,
    PinRefused,
    StoreError,
    StoreUnfit,
    TokenError,
    TokenUnavailable,
)

WORKER = "kmsd-worker"
"""Process name of a worker; its number is appended."""
READY = b"ready\n"
"""Written by a worker once it answers requests."""
OPENED = b"opened\n"
"""Written by a worker before it accepts connections. It continues on SIGUSR1: a stand-in may have to end first."""
REPLACE = b"replace\n"
"""Written by a worker that serves, once, when another one should take over."""
MAX_REPORT_BYTES = 4096
"""Bytes of a `NotReady`: writes to a pipe up to this size are atomic (pipe(7), PIPE_BUF)."""
_MAX_DETAIL = 2000
NAME_BYTES = 16
"""Bytes of the name in `WorkerSpec.missing`, padded with spaces: one write replaces all of it."""


class NotReady(msgspec.Struct, frozen=True):
    """Written by a worker instead of `READY`, before it ends."""

    status: int
    """Exit status that follows."""
    missing: str
    """Cause: `token`, `store`, `audit`, `logs`, `configuration`; `worker` if the worker reported none."""
    detail: str

    def write(self, descriptor: int) -> None:
        """Write the report to the parent, unless the parent has ended."""
        report = msgspec.structs.replace(self, detail=self.detail[:_MAX_DETAIL])
        try:
            os.write(descriptor, msgspec.json.encode(report) + b"\n")
        except BrokenPipeError:
            return


def not_ready(exc: Exception) -> NotReady:
    """Classify an error that keeps the daemon from serving: the missing component, and whether waiting may help."""
    match exc:
        case PinRefused():
            return NotReady(EXIT_PIN_REFUSED, "token", str(exc))
        case TokenUnavailable() if not isinstance(exc, ModuleUnusable):
            return NotReady(EXIT_UNAVAILABLE, "token", str(exc))
        case TokenError():
            return NotReady(EXIT_CONFIG, "token", str(exc))
        case StoreError():
            return NotReady(EXIT_CONFIG if isinstance(exc, StoreUnfit) else EXIT_UNAVAILABLE, "store", str(exc))
        case AuditUnavailable():
            return NotReady(EXIT_UNAVAILABLE, "audit", str(exc))
        case SegmentsError():
            return NotReady(EXIT_UNAVAILABLE if isinstance(exc, SegmentsUnavailable) else EXIT_CONFIG, "logs", str(exc))
        case _:
            return NotReady(EXIT_CONFIG, "configuration", str(exc))


class _Text(msgspec.Struct, frozen=True):
    """Text of the request. The descriptors are passed with it, in a fixed order."""

    number: int
    metrics: bool
    stand_in: bool


class WorkerSpec(NamedTuple):
    """File descriptors inherited by a worker. The numbers are valid in the process that holds the tuple."""

    worker_index: int
    """Index of the worker, which names its audit chain."""
    listener: int
    """Listening socket."""
    ready_fd: int
    """Pipe to the parent. The worker writes lines: its process id, `OPENED`, then `READY` or a `NotReady`; and
    `REPLACE` at any time after `READY`."""
    parent_pipe: int
    """Pipe that reads end-of-file when the parent has ended."""
    config_fd: int
    """Memory file with the configuration (`kmsd.config.snapshot`)."""
    metrics: int | None = None
    """Shared memory for metrics, if they are enabled."""
    tls: tuple[int, ...] = ()
    """Memory files of certificate and key, as the parent has read them; empty: plain HTTP."""
    missing: int | None = None
    """For a stand-in: memory file with the name of the component that the daemon waits for. None for a worker."""

    @property
    def order(self) -> SpawnRequest:
        """Encode this spec as a request to the fork server."""
        optional = [one for one in (self.metrics, self.missing) if one is not None]
        descriptors = (self.listener, self.ready_fd, self.parent_pipe, self.config_fd, *optional, *self.tls)
        text = _Text(self.worker_index, self.metrics is not None, self.missing is not None)
        return SpawnRequest(msgspec.json.encode(text), descriptors)

    @classmethod
    def of(cls, order: SpawnRequest) -> Self:
        """Decode the request in the worker."""
        text = msgspec.json.decode(order.text, type=_Text)
        listener, ready, life, configuration, *rest = order.descriptors
        metrics = rest.pop(0) if text.metrics else None
        missing = rest.pop(0) if text.stand_in else None
        return cls(text.number, listener, ready, life, configuration, metrics, tuple(rest), missing)
