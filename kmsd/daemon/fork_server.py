"""Fork server: the process that workers are forked from. It has imported their modules, and holds nothing else.

It has no configuration, PIN, token, database or event loop, and one thread. A fork of it is a process that has only
imported Python modules; workers share the memory of those. C_Initialize is called in the worker, after the fork
(docs/decisions/0015-zygote.md).

    kmsd serve ──fork──▶ fork server ──fork──▶ (ends at once) ──fork──▶ worker

The first fork server is forked before `kmsd serve` imports its own modules, so it holds nothing either. A replacement
is started as a program (execve). The intermediate process ends after its fork. The kernel then makes `kmsd serve` the
worker's parent, which receives its exit status (`kmsd.daemon.worker_processes`). So workers do not depend on the fork
server's life. The fork server ends when `kmsd serve` does.
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
"""Descriptor of the channel for requests: AF_UNIX and SOCK_SEQPACKET, so that each request is one message."""
NAME = "kmsd-zygote"
_MAX_BYTES = 4096
"""Bytes of a request."""
_MAX_DESCRIPTORS = 16
"""Descriptors passed with a request. SCM_MAX_FD is 253."""
_TERMINAL_SIGNALS = (signal.SIGINT, signal.SIGHUP)
"""A terminal sends these to all its processes. The fork server ignores them and waits for `kmsd serve`."""
_TERMINAL_PACKAGES = ("rich", "colorama")
"""structlog imports these, if installed, to print tracebacks; kmsd prints none (`kmsd.logging_setup`)."""
_POLL_SECONDS = 0.0002


class SpawnRequest(NamedTuple):
    """Request for one worker."""

    text: bytes
    """Encoded worker spec (`kmsd.daemon.worker_spec`), which the fork server does not read."""
    descriptors: tuple[int, ...]
    """Descriptors for the worker."""


class ForkServer:
    """A fork server as its parent sees it: its process id, and the channel to it."""

    def __init__(self, pid: int, channel: socket.socket) -> None:
        """Called by `forked` and `spawned`. Requests can be sent at once; they run when the imports are done."""
        self.started = time.monotonic()
        self.pid = pid
        self._channel = channel

    @classmethod
    def forked(cls) -> Self | None:
        """Start one as a fork of this process, which must have opened nothing and have one thread. Raises OSError.

        Also returns in the fork server, with None: call `main` there.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            if pid := os.fork():
                return cls(pid, ours)
            number, other = theirs.detach(), ours.detach()
            if other != CHANNEL:
                os.close(other)  # if it stayed open, the fork server would not notice the daemon's end
            if number != CHANNEL:
                os.dup2(number, CHANNEL, inheritable=False)
                os.close(number)
            return None

    @classmethod
    def spawned(cls) -> Self:
        """Start one as a new program. Raises OSError."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            command = [sys.executable, "-m", "kmsd.daemon.fork_server"]
            passed = [(os.POSIX_SPAWN_DUP2, theirs.fileno(), CHANNEL)]
            return cls(os.posix_spawn(sys.executable, command, os.environ, file_actions=passed), ours)

    def order(self, order: SpawnRequest) -> None:
        """Request a worker. The descriptors may be closed afterwards. Raises OSError if the request is not accepted."""
        passed = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", order.descriptors))]
        self._channel.sendmsg([order.text], passed, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)

    def stop(self) -> None:
        """Kill the fork server, unless `stop` or `exited` was called before. It has no state to lose."""
        if self._channel.fileno() >= 0:
            self._channel.close()
            os.kill(self.pid, signal.SIGKILL)

    def exited(self) -> None:
        """Note that the fork server has ended. Another process may have its process id now."""
        self._channel.close()


def receive_request(channel: socket.socket) -> SpawnRequest | None:
    """Return the next request; None if the parent has closed the channel."""
    passed = array("i")
    room = socket.CMSG_SPACE(_MAX_DESCRIPTORS * passed.itemsize)
    text, ancillary, _, _ = channel.recvmsg(_MAX_BYTES, room, socket.MSG_CMSG_CLOEXEC)
    for level, kind, payload in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            passed.frombytes(payload)
    return SpawnRequest(text, tuple(passed)) if text else None


def main() -> int:
    """Fork a worker for each request. Return the exit status of this process, or of the worker that it became."""
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
    """Keep structlog from importing packages that kmsd does not use. Call before structlog is imported."""
    for name in _TERMINAL_PACKAGES:
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]  # import then raises ModuleNotFoundError


def preload_modules() -> None:
    """Import all that a worker needs, and freeze it: memory that the garbage collector writes to is not shared."""
    gc.disable()
    skip_optional_imports()
    import_module("kmsd.daemon.worker")
    import_module("kmsd.daemon.preload").preload()
    gc.collect()
    gc.freeze()


def _serve() -> SpawnRequest | None:
    """Serve requests. Returns the request in each worker, and None in the fork server when the parent is gone."""
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
    """Fork a worker by way of an intermediate process. True in the worker."""
    if between := os.fork():
        os.waitpid(between, 0)
        return False
    between = os.getpid()
    if os.fork():
        os._exit(0)
    while os.getppid() == between:
        # Wait until `kmsd serve` is the parent: it must receive this process's exit status.
        time.sleep(_POLL_SECONDS)
    return True


if __name__ == "__main__":
    raise SystemExit(main())
