"""Group commit: one thread writes, one sync serves all that wait.

The schedule: what is handed in during one turn of the event loop is written together; what arrives while a sync
runs gathers, and the next one takes all of it. So one connection waits for one sync, and sixty-four share one.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import TypeVar

from kmsd.adapters.journal.lines import Head
from kmsd.adapters.journal.trail import TrailWriter
from kmsd.ports import AuditUnavailable

T = TypeVar("T")
Written = Callable[[Head, list[bytes]], None]
_Job = Callable[[], None]


class GroupCommit:
    """Owns a writer and its thread. All methods belong to one event loop; the writer belongs to the thread."""

    def __init__(self, writer: TrailWriter, written: Written) -> None:
        self._writer = writer
        self._written = written
        """Called on the loop with the new head and the records that it covers, after each sync."""
        self._loop = asyncio.get_running_loop()
        self._records: list[bytes] = []
        self._waiting: list[asyncio.Future[Head]] = []
        self._busy = False
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=f"audit-{writer.writer}", daemon=True)
        self._thread.start()

    async def append(self, record: bytes) -> Head:
        """Add one record; durable on return, in the chain up to the head that is returned.

        Raises `AuditUnavailable`: then it is not in the trail.
        """
        done: asyncio.Future[Head] = self._loop.create_future()
        self._records.append(record)
        self._waiting.append(done)
        if not self._busy:
            self._busy = True
            self._loop.call_soon(self._hand_over)
        return await done

    def _hand_over(self) -> None:
        records, self._records = self._records, []
        waiting, self._waiting = self._waiting, []
        import os
        if os.environ.get("INLINE"):
            try:
                head = self._writer.append(records)
            except Exception as exc:
                self._failed(waiting, exc)
            else:
                self._succeeded(head, records, waiting)
            return
        self._jobs.put(lambda: self._write(records, waiting))

    def _write(self, records: list[bytes], waiting: list[asyncio.Future[Head]]) -> None:
        """On the thread: one batch."""
        try:
            head = self._writer.append(records)
        except Exception as exc:  # noqa: BLE001 (whatever it was, nobody may go on waiting; it becomes AuditUnavailable)
            self._loop.call_soon_threadsafe(self._failed, waiting, exc)
        else:
            self._loop.call_soon_threadsafe(self._succeeded, head, records, waiting)

    def _succeeded(self, head: Head, records: list[bytes], waiting: list[asyncio.Future[Head]]) -> None:
        self._next()
        for done in waiting:
            if not done.done():
                done.set_result(head)
        self._written(head, records)

    def _failed(self, waiting: list[asyncio.Future[Head]], exc: Exception) -> None:
        self._next()
        for done in waiting:
            if not done.done():
                done.set_exception(unavailable(exc))

    def _next(self) -> None:
        """What has gathered goes first, the answers second: the disk is the slower of the two."""
        if self._records:
            self._hand_over()
        else:
            self._busy = False

    async def run(self, act: Callable[[], T]) -> T:
        """Run something else on the writer's thread. Raises `AuditUnavailable`."""
        done: asyncio.Future[T] = self._loop.create_future()

        def job() -> None:
            try:
                result = act()
            except Exception as exc:  # noqa: BLE001 (as above)
                self._loop.call_soon_threadsafe(_settle_failed, done, exc)
            else:
                self._loop.call_soon_threadsafe(_settle, done, result)

        self._jobs.put(job)
        return await done

    async def close(self) -> None:
        """Let the thread finish what it was given, and end it. Nothing may be appended any more."""
        await self.run(lambda: None)
        self._jobs.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()


def _settle(done: asyncio.Future[T], result: T) -> None:
    if not done.done():
        done.set_result(result)


def _settle_failed(done: asyncio.Future[T], exc: Exception) -> None:
    if not done.done():
        done.set_exception(unavailable(exc))


def unavailable(exc: Exception) -> AuditUnavailable:
    """An adapter's exception as the port has it."""
    told = getattr(exc, "strerror", None) or exc
    error = AuditUnavailable(f"{type(exc).__name__}: {told}")
    error.__cause__ = exc
    return error
