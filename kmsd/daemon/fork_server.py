"""The process that workers are forked from: it has imported what they need, and holds nothing else.

It has no configuration, no PIN, no token, no database, no event loop and one thread, so that a fork of it is a process
like any other, in which nothing has happened yet but reading Python. What was read is in memory once, for all workers.
C_Initialize comes after the fork, in the worker (docs/decisions/0015-zygote.md).

    kmsd serve ──fork──▶ zygote ──fork──▶ (ends at once) ──fork──▶ worker

The first zygote is forked before `kmsd serve` has read its own Python, and holds nothing either; one that replaces it
is a program of its own (execve). The process between ends when it has forked, and the kernel hands the worker to
`kmsd serve`, which learns how it ends (`kmsd.daemon.worker_processes`). So no worker hangs on the zygote's life. The
zygote ends when `kmsd serve` does.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import sys
import time
from array import array
from importlib import import_module
from typing import NamedTuple, Self

from kmsd.linux.malloc import configure_malloc, remove_main_process_variables
from kmsd.linux.prctl import name_process
from kmsd.linux.process_hardening import harden_process

CHANNEL = 3
"""The descriptor by which orders come: a socket of AF_UNIX and SOCK_SEQPACKET, so that each is one message."""
NAME = "kmsd-zygote"
_MAX_BYTES = 4096
"""Of an order."""
_MAX_DESCRIPTORS = 16
"""Of an order: SCM_MAX_FD is 253."""
_TERMINAL_SIGNALS = (signal.SIGINT, signal.SIGHUP)
"""A terminal sends these to every process that it has; the zygote waits for `kmsd serve`."""
_TERMINAL_PACKAGES = ("rich", "colorama")
"""structlog takes these, wherever they are installed, to print tracebacks; kmsd prints none (`kmsd.logging_setup`)."""
_POLL_SECONDS = 0.0002


class SpawnRequest(NamedTuple):
    """One worker that is wanted."""

    text: bytes
    """What kind of worker (`kmsd.daemon.worker_spec`); of no concern here."""
    descriptors: tuple[int, ...]
    """What it is to have."""


class ForkServer:
    """The parent's side: one that was started, and the channel to it."""

    def __init__(self, pid: int, channel: socket.socket) -> None:
        """Of `forked` and `spawned`: it takes orders at once, and carries them out when it has read Python."""
        self.started = time.monotonic()
        self.pid = pid
        self._channel = channel

    @classmethod
    def forked(cls) -> Self | None:
        """Start one as a fork of this process, which has opened nothing yet and has one thread. Raises OSError.

        Also returns in the zygote, with None: `main` is all that is left to do there.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            if pid := os.fork():
                return cls(pid, ours)
            number, other = theirs.detach(), ours.detach()
            if other != CHANNEL:
                os.close(other)  # with it open, the zygote would not learn of the daemon's end
            if number != CHANNEL:
                os.dup2(number, CHANNEL, inheritable=False)
                os.close(number)
            return None

    @classmethod
    def spawned(cls) -> Self:
        """Start one as a program of its own. Raises OSError."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            command = [sys.executable, "-m", "kmsd.daemon.fork_server"]
            passed = [(os.POSIX_SPAWN_DUP2, theirs.fileno(), CHANNEL)]
            return cls(os.posix_spawn(sys.executable, command, os.environ, file_actions=passed), ours)

    def order(self, order: SpawnRequest) -> None:
        """Have a worker forked. The descriptors may be closed afterwards. Raises OSError: nobody takes it."""
        passed = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", order.descriptors))]
        self._channel.sendmsg([order.text], passed, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)

    def stop(self) -> None:
        """End it, if that was not done; it holds nothing. Whoever started it learns of its end as of any child's."""
        if self._channel.fileno() >= 0:
            self._channel.close()
            os.kill(self.pid, signal.SIGKILL)

    def exited(self) -> None:
        """It has ended, and its number may be another's by now."""
        self._channel.close()


def receive_request(channel: socket.socket) -> SpawnRequest | None:
    """The next order; None: whoever gave them is gone."""
    passed = array("i")
    room = socket.CMSG_SPACE(_MAX_DESCRIPTORS * passed.itemsize)
    text, ancillary, _, _ = channel.recvmsg(_MAX_BYTES, room, socket.MSG_CMSG_CLOEXEC)
    for level, kind, payload in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            passed.frombytes(payload)
    return SpawnRequest(text, tuple(passed)) if text else None


def main() -> int:
    """Fork workers as they are ordered. The exit status of this process, or of the worker that it became."""
    harden_process()
    name_process(NAME)
    os.closerange(CHANNEL + 1, os.sysconf("SC_OPEN_MAX"))
    remove_main_process_variables(os.environ)
    configure_malloc(os.environ)
    for number in _TERMINAL_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    preload_modules()
    order = _serve()
    if order is None:
        return 0
    status: int = import_module("kmsd.daemon.worker").main(order)
    return status


def skip_optional_imports() -> None:
    """Have this process import nothing that it has no use for, before it imports structlog."""
    for name in _TERMINAL_PACKAGES:
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]  # what import then says is that there is none


def preload_modules() -> None:
    """Import all that a worker needs, and have the collector leave it alone: memory that it writes to is not shared."""
    gc.disable()
    skip_optional_imports()
    import_module("kmsd.daemon.worker")
    import_module("kmsd.daemon.preload").preload()
    gc.collect()
    gc.freeze()


def _serve() -> SpawnRequest | None:
    """Returns in each worker, with its order; and in the zygote when it is wanted no more, with None."""
    with socket.socket(fileno=CHANNEL) as channel:
        while (order := receive_request(channel)) is not None:
            if _fork():
                for number in _TERMINAL_SIGNALS:
                    signal.signal(number, signal.SIG_DFL)
                gc.enable()
                return order
            for descriptor in order.descriptors:
                os.close(descriptor)
    return None


def _fork() -> bool:
    """Whether this is the worker."""
    if between := os.fork():
        os.waitpid(between, 0)
        return False
    between = os.getpid()
    if os.fork():
        os._exit(0)
    while os.getppid() == between:
        # Until `kmsd serve` is the parent: it must be the one that hears of this process's end.
        time.sleep(_POLL_SECONDS)
    return True


if __name__ == "__main__":
    raise SystemExit(main())
