"""The kernel's syncs that writers share: one for each that is syncing at the moment, up to a bound."""

from __future__ import annotations

import asyncio

import structlog

from kmsd.adapters.aio import KernelSync

MOST = 16
"""Syncs under way at once; whoever finds none free syncs on a thread."""

log = structlog.get_logger()


class Syncs:
    """All methods belong to one event loop."""

    def __init__(self) -> None:
        self._free: list[KernelSync] = []
        self._made: list[KernelSync] = []
        self._refused = False
        """The kernel, or a filter of system calls, does not let us."""

    def take(self) -> KernelSync | None:
        """One for `sync` or `give_back`; None: there is none."""
        if self._free:
            return self._free.pop()
        if self._refused or len(self._made) >= MOST:
            return None
        try:
            made = kernel_sync()
        except OSError as exc:
            self._refused = True
            log.info("log segments sync on threads", reason=str(exc))
            return None
        self._made.append(made)
        return made

    def give_back(self, kernel: KernelSync) -> None:
        """It is free again."""
        self._free.append(kernel)

    async def sync(self, kernel: KernelSync, descriptor: int) -> None:
        """Sync the data of a file, and give `kernel` back. Raises OSError."""
        done: asyncio.Future[OSError | None] = asyncio.get_running_loop().create_future()

        def then(error: OSError | None) -> None:
            self.give_back(kernel)
            if not done.done():
                done.set_result(error)

        try:
            kernel.begin(descriptor, then)
        except OSError:
            self.give_back(kernel)
            raise
        error = await done
        if error is not None:
            raise error

    def close(self) -> None:
        """Let go of the kernel's resources; nothing may be under way."""
        for kernel in self._made:
            kernel.close()
        self._made.clear()
        self._free.clear()


def kernel_sync() -> KernelSync:
    """On the running loop. Raises OSError if the kernel refuses."""
    return KernelSync()
