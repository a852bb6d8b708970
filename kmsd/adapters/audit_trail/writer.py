"""Files of one writer: append, chain and sync lines; cut off what was torn or not acknowledged.

Synchronous, and used by one thread at a time. A line counts as written only after its sync, or its write to the
write-ahead log (`write_ahead_log`), has succeeded. After a failure the descriptor is closed. The file is reopened,
compared with its known content, and cut to the last durable byte. After a failed *sync* the file is never written
again: the kernel may have dropped any of its unwritten pages.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import structlog

from kmsd.adapters.audit_trail import recovery, sidecar_files
from kmsd.adapters.audit_trail.format import (
    COPIES,
    FORMAT,
    FileName,
    Head,
    TrailNode,
    chained,
    control_line,
    files_of,
    fingerprint,
    instant,
)
from kmsd.adapters.audit_trail.write_ahead_log import Block, WriteAheadLog, path_of, replay
from kmsd.linux.aio import Write
from kmsd.linux.files import sync_folder, write_all

log = structlog.get_logger()


class WriterBusy(OSError):
    """Another process writes this chain."""


class SyncFailed(OSError):
    """fdatasync failed: the kernel may have dropped any unwritten page."""


class WriterSettings(msgspec.Struct, frozen=True):
    """Settings of one writer's files."""

    file_bytes: int = 64 * 1024 * 1024
    """Bytes after which a new file is started; one is also started each day (UTC)."""
    checkpoint_lines: int = 1000
    checkpoint_seconds: float = 60.0
    """Signing interval of the chain. Each file states it, for verification."""
    public_key: bytes | None = None
    """DER SubjectPublicKeyInfo of the audit key; None until `kmsd init` has created it."""
    token_serial: str = ""
    node: TrailNode = TrailNode()
    ahead_bytes: int = 0
    """Bytes of the write-ahead log, for processes that write much; 0: none, each batch is synced in the trail."""


class _Failure(msgspec.Struct):
    """Failure after which nothing can be written until `_recover`."""

    reason: str
    since: datetime
    in_sync: bool = False
    refused: int = 0
    """Records refused since then."""


class Staged(msgspec.Struct, frozen=True):
    """Lines that are written but not yet durable."""

    descriptor: int
    block: Block
    head: Head
    """Head of the chain after these lines."""
    last_line: bytes
    write: Write | None
    """Write to the write-ahead log that makes them durable; None: a sync of the descriptor does."""


class TrailWriter:
    """Chain of one writer. Call `open` first. All methods raise OSError."""

    def __init__(self, directory: Path, writer: str, settings: WriterSettings, now: Callable[[], datetime]) -> None:
        self.directory = directory
        self.writer = writer
        self.settings = settings
        self.head = Head()
        """Last durable line."""
        self._now = now
        self._lock: int | None = None
        self._descriptor: int | None = None
        self._name: FileName | None = None
        self._path = self.file = ""
        """Path and name of the open file."""
        self._ahead: WriteAheadLog | None = None
        self._try_ahead = True
        """False after a failed attempt to create the log; each file gets one attempt."""
        self._last: FileName | None = None
        """Last file with a durable line."""
        self._durable_bytes = 0
        """Durable bytes of the file."""
        self._last_line = b""
        """Last durable line of the file, used to recognise the file."""
        self._preface: list[bytes] = []
        """Control lines to write before the next record."""
        self._fresh_file = True
        """True if the next record starts a new file."""
        self._failure: _Failure | None = None
        self.started = False
        """True if this process has written anything."""

    @property
    def path(self) -> Path | None:
        """Path of the current file."""
        return None if self._name is None else self.directory / str(self._name)

    # --- Start and end ------------------------------------------------------------------------------

    def open(self) -> None:
        """Lock the chain and find its end. Nothing is written before the first record. Raises `WriterBusy`."""
        self._acquire_lock()
        replay(self.directory, self.writer)
        files = files_of(self.directory).get(self.writer, [])
        found: dict[str, Any] = {}
        while files:
            name, path = files.pop()
            end = recovery.read(path)
            if end.torn:
                found["cut"] = {"bytes": len(end.torn), "text": end.torn[:2048].decode("utf-8", "replace")}
            if end.durable == 0:
                continue  # a process died between creating this file and its first line: it is created again
            self._name = self._last = name
            self.head, self._durable_bytes, self._last_line = end.head, end.durable, end.last_line
            pinned = (end.public_key, end.node_id)
            self._fresh_file = end.damaged or pinned != (self.settings.public_key, self.settings.node.node_id)
            if end.damaged:
                found["damaged"] = str(name)
            break
        self._preface = [control_line("start", self._now(), writer=self.writer, pid=os.getpid(), **found)]

    def _acquire_lock(self) -> None:
        """Lock the chain for this process until it ends. A lock file that was removed is locked again."""
        path = self.directory / f".{self.writer}.lock"
        if self._lock is not None:
            if path.exists() and path.stat().st_ino == os.fstat(self._lock).st_ino:
                return
            os.close(self._lock)
            self._lock = None
        descriptor = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            os.close(descriptor)
            raise WriterBusy(exc.errno, f"another process writes the audit trail of {self.writer}") from exc
        self._lock = descriptor

    def close(self) -> None:
        """Close files and release the lock. Records that are not written are lost; none of them was acknowledged."""
        self._close_write_ahead_log()
        for descriptor in (self._descriptor, self._lock):
            if descriptor is not None:
                os.close(descriptor)
        self._descriptor = self._lock = None

    def resume(self, settings: WriterSettings) -> None:
        """Continue under another audit key, in a new file whose first line pins it."""
        self.settings = settings
        self._fresh_file = True

    # --- Writing ------------------------------------------------------------------------------------

    def append(self, records: Sequence[bytes]) -> Head:
        """Write `records`, durable on return. If it raises, none of them is in the trail."""
        try:
            staged = self._stage(self._open_for_writing(), records)
            if staged.block.lines:
                self._sync(staged.descriptor)
        except Exception as exc:
            self.fail(exc, len(records))
            raise
        self.complete(staged)
        return staged.head

    def begin_write(self, records: Sequence[bytes]) -> Staged | None:
        """Write `records` without making them durable; None if more is to be done first: use `append`.

        Sync the descriptor, or do the staged `write`, then call `complete`; the records are in the trail then. On an
        error call `fail`: it takes them out again. Write nothing else meanwhile.
        """
        if self._failure is not None or self._descriptor is None or self._must_rotate():
            return None
        try:
            return self._stage(self._descriptor, records, self._ahead)
        except Exception as exc:
            self.fail(exc, len(records))
            raise

    def complete(self, staged: Staged) -> None:
        """Record that the staged lines are durable."""
        length = len(staged.block.lines)
        if not length:
            return
        if self._ahead is not None:
            if staged.write is None:
                self._ahead.truncate()
            else:
                self._ahead.commit(staged.block, staged.write)
        self.head, self._last, self.started = staged.head, self._name, True
        self._durable_bytes += length
        self._last_line = staged.last_line
        self._preface.clear()
        self._failure = None

    def _open_for_writing(self) -> int:
        if self._failure is not None:
            self._recover(self._failure)
        if self._descriptor is None:
            self._reopen()
        if self._must_rotate():
            self._start_file()
        if self._ahead is None and self._try_ahead and self.settings.ahead_bytes:
            self._open_write_ahead_log()
        if self._descriptor is None:
            raise OSError("no file is open")
        return self._descriptor

    def _open_write_ahead_log(self) -> None:
        """Open the write-ahead log if possible. Without it each batch is synced in the trail: as safe, but slower."""
        try:
            self._ahead = WriteAheadLog(path_of(self.directory, self.writer), self.settings.ahead_bytes)
        except OSError as exc:
            self._try_ahead = False
            log.info("audit_without_write_ahead_log", writer=self.writer, reason=str(exc))

    def _close_write_ahead_log(self) -> None:
        ahead, self._ahead = self._ahead, None
        if ahead is None:
            return
        try:
            ahead.rewrite(self.directory)
        except OSError as exc:
            # Keep the log: the next process that opens the chain replays it.
            log.error("audit_trail_not_synced", writer=self.writer, reason=str(exc))  # noqa: TRY400 (one line)
            ahead.close(remove=False)
        else:
            ahead.close(remove=True)

    def _stage(self, descriptor: int, records: Sequence[bytes], ahead: WriteAheadLog | None = None) -> Staged:
        lines, head = chained(self.head, [*self._preface, *records])
        # A file that was removed or moved away still accepts writes, but those records would be lost.
        if lines and os.stat(self._path).st_ino != os.fstat(descriptor).st_ino:  # noqa: PTH116 (a hot path)
            raise FileNotFoundError(f"{self._path} is not the file that was opened")
        written = os.write(descriptor, lines)
        if written < len(lines):
            write_all(descriptor, lines[written:])
        block = Block(self.file, self._durable_bytes, lines, self.head)
        write = None if ahead is None else ahead.begin_write(block)
        return Staged(descriptor, block, head, lines[lines.rfind(b"\n", 0, -1) + 1 :], write)

    @staticmethod
    def _sync(descriptor: int) -> None:
        try:
            os.fdatasync(descriptor)
        except OSError as exc:
            raise SyncFailed(exc.errno, exc.strerror) from exc

    def _must_rotate(self) -> bool:
        return (
            self._fresh_file
            or self._name is None
            or self._durable_bytes >= self.settings.file_bytes
            or self._name.day != self._now().date()
        )

    def _start_file(self) -> None:
        """Start a new file. Its first line pins format, writer, key and predecessor; durable with the next write."""
        if self._ahead is not None:
            self._ahead.rewrite(self.directory)
        now, before = self._now(), self._last
        name = FileName(self.writer, 1 if before is None else before.number + 1, now.date())
        path = self.directory / str(name)
        if path.exists() and recovery.read(path).durable == 0:
            path.unlink()  # left by a process or attempt that failed before its first line was durable
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o640)
        if self._descriptor is not None:
            os.close(self._descriptor)
        self._descriptor, self._name, self._durable_bytes, self._last_line = descriptor, name, 0, b""
        self._path, self.file, self._try_ahead = str(path), str(name), True
        sync_folder(self.directory)
        self._fresh_file = False
        self._preface = [self._opening(name, now, before), *self._preface_without(b"open")]

    def _preface_without(self, kind: bytes) -> list[bytes]:
        return [line for line in self._preface if not line.startswith(b'{"kmsd":"%b"' % kind)]

    def _opening(self, name: FileName, now: datetime, before: FileName | None) -> bytes:
        key, node = self.settings.public_key, self.settings.node
        named = {"nodeId": node.node_id, "node": node.name} if node.node_id else {}
        return control_line(
            "open",
            now,
            format=FORMAT,
            writer=self.writer,
            number=name.number,
            previousFile=None if before is None else str(before),
            previousSequence=self.head.sequence,
            previousHash=self.head.digest.decode(),
            publicKey=key,
            fingerprint=None if key is None else fingerprint(key),
            tokenSerial=self.settings.token_serial,
            checkpointLines=self.settings.checkpoint_lines,
            checkpointSeconds=self.settings.checkpoint_seconds,
            **named,
        )

    def _reopen(self) -> None:
        """Reopen the file after a start or a failure, cut to its durable bytes."""
        path = self.path
        if path is None or not path.exists():
            self._fresh_file = True
        elif not recovery.ends_with(path, self._durable_bytes, self._last_line):
            # The file has been changed. Leave it for `kmsd audit verify`, and start a new one.
            self._fresh_file = True
        else:
            recovery.cut(path, self._durable_bytes)
            if not self._fresh_file:
                self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
                self._path, self.file = str(path), path.name

    # --- Failure and recovery -----------------------------------------------------------------------

    def fail(self, exc: Exception, records: int) -> None:
        """Close the file, which is no longer trusted, and keep the reason for the trail."""
        if self._failure is None:
            reason = getattr(exc, "strerror", None) or exc
            self._failure = _Failure(f"{type(exc).__name__}: {reason}", self._now())
        self._failure.in_sync = self._failure.in_sync or isinstance(exc, SyncFailed)
        self._failure.refused += records
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            # The kernel may report the same error again here; it is already recorded.
            with contextlib.suppress(OSError):
                os.close(descriptor)

    def _recover(self, failure: _Failure) -> None:
        """Prepare the next attempt: check the lock, rewrite the trail after a failed sync, add a `recovered` line."""
        self._acquire_lock()
        if failure.in_sync and self._ahead is not None:
            # Batches that only the log makes durable may be missing in the trail.
            self._ahead.rewrite(self.directory)
            self._ahead.close(remove=True)
            self._ahead = None
        self._fresh_file = self._fresh_file or failure.in_sync
        recovered = control_line(
            "recovered",
            self._now(),
            writer=self.writer,
            failure=failure.reason,
            since=instant(failure.since),
            refused=failure.refused,
        )
        self._preface = [*self._preface_without(b"recovered"), recovered]

    # --- Beside the trail ---------------------------------------------------------------------------

    def probe(self) -> None:
        """Prove that there is space and permission to write. Writes to the trail only if it had failed."""
        sidecar_files.try_to_write(self.directory / f".{self.writer}.probe")
        if self._failure is not None:
            self.append([])

    def copy(self, line: bytes) -> None:
        """Append a checkpoint to the copies."""
        sidecar_files.add_copy(self.directory / COPIES, line)
