"""What a process does first, so that what it holds stays in it: no core dump, and no look into its memory."""

from __future__ import annotations

import resource

from kmsd.linux.prctl import keep_memory_private

_NO_CORE = 1
"""core(5) and the kernel's `do_coredump`: a limit of 1 byte forbids a core file and a pipe to a helper alike; 0 leaves
the pipe to the helper's discretion."""


def harden_process() -> None:
    """Write no core, and let no other process of the same user read this one's memory or trace it. For `main`.

    A core would hold derived signing keys, the PIN, and plaintexts of requests under way. The unit forbids cores as
    well (LimitCORE); this holds wherever the daemon and its commands are started. execve(2) undoes the second half, so
    each process asks for itself. Raises OSError: a process that cannot be made to keep its secrets gets none.
    """
    now, most = resource.getrlimit(resource.RLIMIT_CORE)
    if (now, most) != (0, 0):  # what LimitCORE=0 sets; the unit's filter may then forbid the call
        limit = _NO_CORE if most == resource.RLIM_INFINITY else min(_NO_CORE, most)
        resource.setrlimit(resource.RLIMIT_CORE, (limit, limit))
    keep_memory_private()
