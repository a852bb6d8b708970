"""One writer's files: lines appended, chained and synced; what was torn or not acknowledged is cut off again.

Synchronous, and owned by one thread at a time. The rules: nothing counts as written before the sync that follows
it has succeeded, or the write to the file beside the trail that stands for it (`write_ahead_log`); after a failure the
descriptor is closed, the file reopened, compared with what is known to be in it, and cut to the last durable byte;
after a failed *sync* the file is not written to any more at all, because nobody knows which of its pages the kernel
gave up.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import structlog

from kmsd.adapters.audit_trail import recovery, sidecar_files
from kmsd.adapters.audit_trail.format import (
    COPIES,
    FORMAT,
    FileName,
    Head,
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
    """fdatasync failed: nobody knows which pages the kernel gave up."""


class WriterSettings(msgspec.Struct, frozen=True):
    """How files are kept."""

    file_bytes: int = 64 * 1024 * 1024
    """A new file is begun when this size is passed, and each day (UTC)."""
    checkpoint_lines: int = 1000
    checkpoint_seconds: float = 60.0
    """How often the chain is to be signed; each file says so, for those who verify it."""
    public_key: bytes | None = None
    """DER SubjectPublicKeyInfo of the audit key; None: `kmsd init` has not made it yet."""
    token_serial: str = ""
    ahead_bytes: int = 0
    """Size of the write-ahead file; 0: none, every batch is synced in the trail. For processes that write much."""


class _Failure(msgspec.Struct):
    """Why nothing can be written."""

    reason: str
    since: datetime
    in_sync: bool = False
    refused: int = 0
    """Records that were not written since."""


class Staged(NamedTuple):
    """Lines that are written and not yet durable."""

    descriptor: int
    block: Block
    head: Head
    """Of the chain with them."""
    last_line: bytes
    write: Write | None
    """What makes them durable; None: a sync of the descriptor."""


class TrailWriter:
    """The chain of one writer. `open` comes first; all methods raise OSError."""

    def __init__(self, directory: Path, writer: str, settings: WriterSettings, now: Callable[[], datetime]) -> None:
        self.directory = directory
        self.writer = writer
        self.settings = settings
        self.head = Head()
        """The last durable line."""
        self._now = now
        self._lock: int | None = None
        self._descriptor: int | None = None
        self._name: FileName | None = None
        self._path = self.file = ""
        """Path and name of the open file."""
        self._ahead: WriteAheadLog | None = None
        self._try_ahead = True
        """Whether it may be made; it is tried once for each file."""
        self._last: FileName | None = None
        """The last file with a durable line."""
        self._close = 0
        """Durable bytes of the file."""
        self._last_line = b""
        """The last durable line of the file, to know the file again."""
        self._preface: list[bytes] = []
        """Own lines that go before the next record."""
        self._fresh_file = True
        """The next record begins a new file."""
        self._failure: _Failure | None = None
        self.started = False
        """Whether this process has written anything."""

    @property
    def path(self) -> Path | None:
        """The file that is written to."""
        return None if self._name is None else self.directory / str(self._name)

    # --- Start and end ------------------------------------------------------------------------------

    def open(self) -> None:
        """Take the chain, and find its end. Nothing is written before the first record. Raises `WriterBusy`."""
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
                continue  # a process died between making this file and its first line: it is made anew
            self._name = self._last = name
            self.head, self._close, self._last_line = end.head, end.durable, end.last_line
            self._fresh_file = end.damaged or end.public_key != self.settings.public_key
            if end.damaged:
                found["damaged"] = str(name)
            break
        self._preface = [control_line("start", self._now(), writer=self.writer, pid=os.getpid(), **found)]

    def _acquire_lock(self) -> None:
        """One process for each chain, for as long as it lives; a lock removed with its directory is none."""
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
        """Let go of files and lock; what was not written is lost, and nobody was told that it was."""
        self._close_write_ahead_log()
        for descriptor in (self._descriptor, self._lock):
            if descriptor is not None:
                os.close(descriptor)
        self._descriptor = self._lock = None

    def resume(self, settings: WriterSettings) -> None:
        """Go on under another audit key: in a new file, whose first line pins it."""
        self.settings = settings
        self._fresh_file = True

    # --- Writing ------------------------------------------------------------------------------------

    def append(self, records: Sequence[bytes]) -> Head:
        """Write `records`; durable on return. If it raises, none of them is in the trail."""
        try:
            self._open_for_writing()
            staged = self._stage(records)
            if staged.block.lines:
                self._sync(staged.descriptor)
        except Exception as exc:
            self.fail(exc, len(records))
            raise
        self.complete(staged)
        return staged.head

    @property
    def is_plain(self) -> bool:
        """Whether the next records only have to be written: the file is open, and nothing has failed."""
        return self._failure is None and self._descriptor is not None and not self._must_rotate()

    def begin_write(self, records: Sequence[bytes]) -> Staged:
        """Write `records` where that `is_plain`.

        They are in the trail once their descriptor is synced, or their `write` done, and `settle` has been called, or
        else are taken out again by `fail`. Nothing else may be written meanwhile.
        """
        try:
            return self._stage(records, self._ahead)
        except Exception as exc:
            self.fail(exc, len(records))
            raise

    def complete(self, staged: Staged) -> None:
        """What was staged is durable."""
        length = len(staged.block.lines)
        if not length:
            return
        if self._ahead is not None:
            if staged.write is None:
                self._ahead.truncate()
            else:
                self._ahead.commit(staged.block, staged.write)
        self.head, self._last, self.started = staged.head, self._name, True
        self._close += length
        self._last_line = staged.last_line
        self._preface.clear()
        self._failure = None

    def _open_for_writing(self) -> None:
        if self._failure is not None:
            self._recover(self._failure)
        if self._descriptor is None:
            self._reopen()
        if self._must_rotate():
            self._start_file()
        if self._ahead is None and self._try_ahead and self.settings.ahead_bytes:
            self._open_write_ahead_log()

    def _open_write_ahead_log(self) -> None:
        """Without it each batch is synced in the trail, which takes longer and is as good."""
        try:
            self._ahead = WriteAheadLog(path_of(self.directory, self.writer), self.settings.ahead_bytes)
        except OSError as exc:
            self._try_ahead = False
            log.info("audit without a write-ahead file", writer=self.writer, reason=str(exc))

    def _close_write_ahead_log(self) -> None:
        ahead, self._ahead = self._ahead, None
        if ahead is None:
            return
        try:
            ahead.rewrite(self.directory)
        except OSError as exc:
            # Whoever opens the chain next finds it.
            log.error("audit trail not synced", writer=self.writer, reason=str(exc))  # noqa: TRY400 (one line)
            ahead.close(remove=False)
        else:
            ahead.close(remove=True)

    def _stage(self, records: Sequence[bytes], ahead: WriteAheadLog | None = None) -> Staged:
        descriptor = self._descriptor
        if descriptor is None:
            raise OSError("no file is open")
        lines, head = chained(self.head, [*self._preface, *records])
        if lines:
            self._write(descriptor, lines)
        block = Block(self.file, self._close, lines, self.head)
        write = None if ahead is None else ahead.begin_write(block)
        return Staged(descriptor, block, head, lines[lines.rfind(b"\n", 0, -1) + 1 :], write)

    def _write(self, descriptor: int, data: bytes) -> None:
        # A file that was removed or moved away takes writes for ever, and nobody would find them.
        if os.stat(self._path).st_ino != os.fstat(descriptor).st_ino:  # noqa: PTH116 (a hot path)
            raise FileNotFoundError(f"{self._path} is not the file that was opened")
        write_all(descriptor, data)

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
            or self._close >= self.settings.file_bytes
            or self._name.day != self._now().date()
        )

    def _start_file(self) -> None:
        """A new file; its first line pins format, writer, key and what it follows; durable with the next write."""
        if self._ahead is not None:
            self._ahead.rewrite(self.directory)
        now, before = self._now(), self._last
        name = FileName(self.writer, 1 if before is None else before.number + 1, now.date())
        path = self.directory / str(name)
        if path.exists() and recovery.read(path).durable == 0:
            path.unlink()  # left by a process, or an attempt, that failed before its first line was durable
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o640)
        if self._descriptor is not None:
            os.close(self._descriptor)
        self._descriptor, self._name, self._close, self._last_line = descriptor, name, 0, b""
        self._path, self.file, self._try_ahead = str(path), str(name), True
        sync_folder(self.directory)
        self._fresh_file = False
        self._preface = [self._opening(name, now, before), *self._preface_without(b"open")]

    def _preface_without(self, kind: bytes) -> list[bytes]:
        return [line for line in self._preface if not line.startswith(b'{"kmsd":"%b"' % kind)]

    def _opening(self, name: FileName, now: datetime, before: FileName | None) -> bytes:
        key = self.settings.public_key
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
        )

    def _reopen(self) -> None:
        """The file that the last process, or the last failure, left: cut to what is durable in it."""
        path = self.path
        if path is None or not path.exists():
            self._fresh_file = True
        elif not recovery.ends_with(path, self._close, self._last_line):
            # Not the file that we know: what is in it is for `kmsd audit verify` to say; we do not touch it.
            self._fresh_file = True
        else:
            recovery.cut(path, self._close)
            if not self._fresh_file:
                self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
                self._path, self.file = str(path), path.name

    # --- Failing and coming back --------------------------------------------------------------------

    def fail(self, exc: Exception, records: int) -> None:
        """Close what is not to be trusted any more, and remember why."""
        if self._failure is None:
            told = getattr(exc, "strerror", None) or exc
            self._failure = _Failure(f"{type(exc).__name__}: {told}", self._now())
        self._failure.in_sync = self._failure.in_sync or isinstance(exc, SyncFailed)
        self._failure.refused += records
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            # The kernel may report the same fault once more here; the failure that counts is already known.
            with contextlib.suppress(OSError):
                os.close(descriptor)

    def _recover(self, failure: _Failure) -> None:
        """Before the next attempt: our lock, our file without what was not acknowledged, and a line that tells it."""
        self._acquire_lock()
        if failure.in_sync and self._ahead is not None:
            # Nobody knows what of the batches before is still in the trail.
            self._ahead.rewrite(self.directory)
            self._ahead.close(remove=True)
            self._ahead = None
        self._fresh_file = self._fresh_file or failure.in_sync
        told = control_line(
            "recovered",
            self._now(),
            writer=self.writer,
            failure=failure.reason,
            since=instant(failure.since),
            refused=failure.refused,
        )
        self._preface = [*self._preface_without(b"recovered"), told]

    # --- Beside the trail ---------------------------------------------------------------------------

    def probe(self) -> None:
        """Prove that there is room and permission to write. The trail is left alone, unless it had failed."""
        sidecar_files.try_to_write(self.directory / f".{self.writer}.probe")
        if self._failure is not None:
            self.append([])

    def copy(self, line: bytes) -> None:
        """Add a checkpoint to the copies."""
        sidecar_files.add_copy(self.directory / COPIES, line)
