"""Hardening of a process at its start: no core dump, and no access to its memory."""

from __future__ import annotations

import resource

from kmsd.linux.prctl import keep_memory_private

_NO_CORE = 1
"""Limit in bytes. 1 forbids both a core file and a pipe to a helper; 0 leaves the pipe to the helper (core(5) and the
kernel's `do_coredump`)."""


def harden_process() -> None:
    """Forbid core dumps, and keep other processes of the same user from reading or tracing this one. Call it in `main`.

    A core would contain derived signing keys, the PIN, and plaintexts of running requests. The unit forbids cores too
    (LimitCORE); this applies wherever the daemon and its commands are started. execve(2) undoes the second half, so
    each process calls this. Raises OSError: a process that cannot protect its secrets must not get any.
    """
    now, most = resource.getrlimit(resource.RLIMIT_CORE)
    if (now, most) != (0, 0):  # LimitCORE=0 sets (0, 0); the unit's seccomp filter may then forbid the call
        limit = _NO_CORE if most == resource.RLIM_INFINITY else min(_NO_CORE, most)
        resource.setrlimit(resource.RLIMIT_CORE, (limit, limit))
    keep_memory_private()
