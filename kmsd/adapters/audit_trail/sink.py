"""Audit trail in files: one chain of lines for each writing process, signed by a key in the token."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from operator import methodcaller
from pathlib import Path
from typing import Self

import msgspec
from msgspec.structs import replace

from kmsd.adapters.audit_trail.checkpointer import Checkpointer, Interval, Signer
from kmsd.adapters.audit_trail.format import ABOUT_SIGNING, OWN, WRITER, Checkpoint, Head, TrailNode, control_line
from kmsd.adapters.audit_trail.forwarder import Forwarder, destination_for
from kmsd.adapters.audit_trail.group_commit import GroupCommit, SyncStatistics, Uncancellable, unavailable
from kmsd.adapters.audit_trail.writer import TrailWriter, WriterBusy, WriterSettings
from kmsd.event_loop.cohorts import CohortScheduler
from kmsd.ports import AuditUnavailable

MAX_WRITERS = 99
"""Commands that may write at the same time."""
PATIENCE_SECONDS = 30.0
"""Seconds to wait for the lock of the last candidate chain. The process that copies what a previous process left holds
it briefly; a worker whose parent was killed holds it until its running calls end."""
PROBE_SECONDS = 0.5
"""Seconds for which a successful `check` is cached: health probes must not keep the disk busy."""


_IS_ABOUT_SIGNING = methodcaller("startswith", ABOUT_SIGNING)


def _host_now() -> datetime:
    return datetime.now(UTC)


class SinkSettings(msgspec.Struct, frozen=True):
    """Settings of a trail."""

    file_bytes: int = 64 * 1024 * 1024
    interval: Interval = msgspec.field(default_factory=Interval)
    forward: tuple[str, ...] = ()
    """Destinations of copies (`kmsd.adapters.audit_trail.forwarder`)."""
    now: Callable[[], datetime] = _host_now
    ahead_bytes: int = 0
    """Size of the write-ahead log in bytes; 0: none (`kmsd.adapters.audit_trail.write_ahead_log`)."""
    cohorts: CohortScheduler = msgspec.field(default_factory=CohortScheduler)
    """Counts the running calls that will still write records."""
    node: TrailNode = TrailNode()
    """This host, if it is one of several. Each record names it."""


class TrailSink:
    """Implements `kmsd.ports.AuditSink`."""

    def __init__(self, writer: TrailWriter, settings: SinkSettings, signer: Signer | None) -> None:
        """Called by `open` only."""
        self._writer = writer
        self._settings = settings
        self._forwarders = [Forwarder.to(target, writer.writer) for target in settings.forward]
        self._commit = GroupCommit(writer, self._written, settings.cohorts)
        self._end = b',"node":%b}' % msgspec.json.encode(settings.node.name) if settings.node.node_id else b""
        """End of each record that names the node; empty if there is one host."""
        self._checkpoints = Checkpointer(
            writer.writer,
            writer.head,
            interval=settings.interval,
            now=settings.now,
            append=self._append_own,
            copy=self._copy_checkpoint,
            signer=signer,
            node_id=settings.node.node_id,
        )
        self._probed = float("-inf")
        self._file = writer.file
        self._durable = 0

    @classmethod
    async def open(
        cls,
        directory: Path,
        writer: str,
        signer: Signer | None,
        settings: SinkSettings | None = None,
        *,
        shared_writer_name: bool = False,
    ) -> Self:
        """Open the chain of `writer` (`worker-0`, `cli`). Nothing is written before the first record.

        With `shared_writer_name`, if another process holds that chain, `cli-2` is opened, and so on. Raises
        `AuditUnavailable`, and `BadTarget` for an invalid forwarding target.
        """
        given = settings or SinkSettings()
        for target in given.forward:
            destination_for(target, writer)
        files = WriterSettings(
            given.file_bytes,
            given.interval.lines,
            given.interval.seconds,
            ahead_bytes=given.ahead_bytes,
            node=given.node,
        )
        if signer is not None:
            files = replace(files, public_key=signer.public_key, token_serial=signer.token_serial)
        names = (
            [writer, *(f"{writer}-{number}" for number in range(2, MAX_WRITERS + 1))]
            if shared_writer_name
            else [writer]
        )
        try:
            found = await asyncio.to_thread(_acquire_chain, directory, names, files, given.now)
        except OSError as exc:
            raise unavailable(exc) from exc
        return cls(found, given, signer)

    @property
    def writer(self) -> str:
        """Name of the chain."""
        return self._writer.writer

    @property
    def durable(self) -> int:
        """Number of the last line that this process knows to be durable; 0 before it has written any."""
        return self._durable

    @property
    def signed(self) -> bool:
        """True if there is a signing key."""
        return self._checkpoints.signer is not None

    @property
    def public_key(self) -> bytes | None:
        """DER SubjectPublicKeyInfo of the key that signs; None if there is none yet."""
        signer = self._checkpoints.signer
        return None if signer is None else signer.public_key

    @property
    def statistics(self) -> tuple[SyncStatistics, int]:
        """Statistics of the syncs, and the number of unsigned lines, for metrics."""
        return self._commit.statistics, self._checkpoints.unsigned

    async def record_takeover(self) -> None:
        """Record that this process took over the chain, before its first record. Raises `AuditUnavailable`."""
        head = await self._commit.run(lambda: self._writer.append([]))
        self._durable = max(self._durable, head.sequence)
        self._checkpoints.written(head, own=False)
        # Sign the lines that the previous process left unsigned now, not after the first call.
        self._checkpoints.sign_soon()

    async def append(self, record: bytes) -> None:
        if record.startswith(OWN) or b"\n" in record:
            raise AuditUnavailable("not an audit record")
        if self._end:
            record = record[:-1] + self._end
        done, cohorts = Uncancellable(), self._settings.cohorts
        cohorts.in_flight -= 1
        try:
            await self._commit.append(record, done)
        except AuditUnavailable:
            self._probed = float("-inf")
            raise
        except asyncio.CancelledError:
            if done.exception() is not None:
                raise
            _cancel_later()
        finally:
            cohorts.in_flight += 1

    async def check(self) -> None:
        loop = asyncio.get_running_loop()
        if loop.time() - self._probed >= PROBE_SECONDS:
            await self._commit.run(self._writer.probe)
            self._probed = loop.time()

    async def start_signing(self, signer: Signer) -> None:
        """Sign with this key from now on: `kmsd init` has just created it. Raises `AuditUnavailable`."""
        settings = replace(self._writer.settings, public_key=signer.public_key, token_serial=signer.token_serial)
        await self._commit.run(lambda: self._writer.resume(settings))
        self._checkpoints.signer = signer

    async def sign_now(self) -> None:
        """Sign everything that is written, if the token can sign now."""
        await self._checkpoints.finish()

    async def record_restore(self, **members: object) -> None:
        """Record that this chain was restored from a backup, and continue it. Raises `AuditUnavailable`."""
        await self._commit.append(control_line("restored", self._settings.now(), writer=self.writer, **members))

    async def record_anchor(self, checkpoint: Checkpoint) -> None:
        """Record the checkpoint of another node: its trail cannot be cut before it any more without being found.

        Raises `AuditUnavailable`.
        """
        await self._commit.append(
            control_line("anchor", self._settings.now(), writer=self.writer, checkpoint=checkpoint.members())
        )

    async def close(self) -> None:
        """Write a last line and a last checkpoint if this process has written anything; close all files."""
        try:
            if self._writer.started:
                await self._close_chain()
        finally:
            await self._commit.close()
            self._writer.close()
            for forwarder in self._forwarders:
                await asyncio.to_thread(forwarder.close)

    async def _close_chain(self) -> None:
        try:
            await self._commit.append(control_line("stop", self._settings.now(), writer=self.writer))
        except AuditUnavailable:
            return  # no acknowledged record is lost; the next start finds the chain as it is
        await self._checkpoints.close()

    async def _append_own(self, line: bytes) -> Head:
        return await self._commit.append(line)

    async def _copy_checkpoint(self, line: bytes) -> None:
        await self._commit.run(lambda: self._writer.copy(line))

    def _written(self, head: Head, records: Sequence[bytes]) -> None:
        """Update checkpoints and forwarders. Called on the event loop after each sync."""
        self._durable = head.sequence
        own = all(map(_IS_ABOUT_SIGNING, records))
        self._checkpoints.written(head, own=own)
        if self._writer.file != self._file:
            self._file = self._writer.file
            self._checkpoints.sign_soon()
        for forwarder in self._forwarders:
            forwarder.offer(records)


def _acquire_chain(
    directory: Path, names: Sequence[str], files: WriterSettings, now: Callable[[], datetime]
) -> TrailWriter:
    """Open the first chain of `names` that no process holds; wait for the last of them. Raises OSError."""
    until = time.monotonic() + PATIENCE_SECONDS
    for name in names:
        if not WRITER.fullmatch(name):
            raise ValueError(f"{name!r} cannot name a writer")
        writer = TrailWriter(directory, name, files, now)
        try:
            _open(writer, until if name == names[-1] else 0.0)
        except WriterBusy:
            if name == names[-1]:
                raise
        except OSError:
            writer.close()
            raise
        else:
            return writer
    raise ValueError("no name to write under")


def _open(writer: TrailWriter, until: float) -> None:
    """Open a chain; retry until `until` on the monotonic clock. Raises OSError."""
    while True:
        try:
            writer.open()
        except WriterBusy:
            if time.monotonic() >= until:
                raise
            time.sleep(0.01)
        else:
            return


def _cancel_later() -> None:
    """Raise the caught cancellation again at this task's next wait, without changing its count of cancel requests."""
    task = asyncio.current_task()
    if task is not None:
        task.uncancel()
        task.cancel()
