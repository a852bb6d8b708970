"""What a worker has from its parent, and what it answers.

The zygote passes the order on unread: descriptors, and a few words of JSON.
"""

from __future__ import annotations

import os
from typing import NamedTuple, Self

import msgspec

from kmsd.cloudwatch_logs.ports import SegmentsError, SegmentsUnavailable
from kmsd.daemon.fork_server import SpawnRequest
from kmsd.exit_codes import EXIT_CONFIG, EXIT_RESTORE_REFUSED, EXIT_UNAVAILABLE
from kmsd.ports import (
    AuditUnavailable,
    ModuleUnusable,
    PinRefused,
    StoreError,
    StoreUnfit,
    TokenError,
    TokenUnavailable,
)

READY = b"ready"
"""What a worker writes once requests are answered."""
OPENED = b"opened"
"""What a worker writes before it accepts connections. SIGUSR1 lets it go on: a stand-in may have to end first."""
MAX_REPORT_BYTES = 4096
"""Of a `NotReady`: a write of so much to a pipe is in one piece (pipe(7), PIPE_BUF)."""
_MAX_DETAIL = 2000
NAME_BYTES = 16
"""Of the name in `Lines.missing`, padded with spaces: one write changes it whole."""


class NotReady(msgspec.Struct, frozen=True):
    """What a worker writes instead of `READY`, before it ends."""

    status: int
    """The exit status that follows."""
    missing: str
    """Why: `token`, `store`, `audit`, `logs`, `configuration`; `worker` if it could not say."""
    detail: str

    def write(self, descriptor: int) -> None:
        """Tell the parent, unless it has gone."""
        told = msgspec.structs.replace(self, detail=self.detail[:_MAX_DETAIL])
        try:
            os.write(descriptor, msgspec.json.encode(told))
        except BrokenPipeError:
            return


def not_ready(exc: Exception) -> NotReady:
    """Say of an error that keeps the daemon from serving what is missing, and if waiting helps."""
    match exc:
        case PinRefused():
            return NotReady(EXIT_RESTORE_REFUSED, "token", str(exc))
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
    """What stands in the order; the descriptors come beside it, one after the other."""

    number: int
    metrics: bool
    stand_in: bool


class WorkerSpec(NamedTuple):
    """Descriptors, by what they are for; of whichever process looks."""

    worker_index: int
    """Names its audit chain."""
    listener: int
    """The listening socket."""
    ready_fd: int
    """To write to: the process id on a line, and `READY` or a `NotReady` in the end."""
    parent_pipe: int
    """Reads end-of-file when the parent is gone."""
    config_fd: int
    """Memory file with the configuration (`kmsd.config.snapshot`)."""
    metrics: int | None = None
    """Memory to count in, if anybody wants the figures."""
    tls: tuple[int, ...] = ()
    """Memory files: certificate and key as the parent has read them; empty: plain HTTP."""
    missing: int | None = None
    """Of a stand-in: memory file with the name of what the daemon waits for. None: a worker is wanted."""

    @property
    def order(self) -> SpawnRequest:
        """As the zygote takes it."""
        optional = [one for one in (self.metrics, self.missing) if one is not None]
        descriptors = (self.listener, self.ready_fd, self.parent_pipe, self.config_fd, *optional, *self.tls)
        text = _Text(self.worker_index, self.metrics is not None, self.missing is not None)
        return SpawnRequest(msgspec.json.encode(text), descriptors)

    @classmethod
    def of(cls, order: SpawnRequest) -> Self:
        """As the worker has them."""
        text = msgspec.json.decode(order.text, type=_Text)
        listener, ready, life, configuration, *rest = order.descriptors
        metrics = rest.pop(0) if text.metrics else None
        missing = rest.pop(0) if text.stand_in else None
        return cls(text.number, listener, ready, life, configuration, metrics, tuple(rest), missing)
