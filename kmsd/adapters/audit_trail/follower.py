"""Reader of the trail for the process that copies its records into a log group.

Implements `kmsd.cloudwatch_logs.ports.AuditTrail`.

Only records that can never be taken back are read. For its own chain a process knows the last durable line. Other
chains are those of commands, and of workers that were stopped or killed. They are read under the writer's lock: no
process writes to them then, and the next one continues after the last complete line. The process that copies a chain
holds a second lock from its first look at the copy until its last batch is stored.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import msgspec

from kmsd.adapters.audit_trail.format import OWN, SUFFIX, FileName, files_of
from kmsd.adapters.audit_trail.write_ahead_log import path_of, replay
from kmsd.cloudwatch_logs.ports import TrailBatch, TrailChain
from kmsd.ports import AuditUnavailable

WINDOW = 1_048_576
"""Bytes of a file that are read at a time. A batch has the records that begin and end in one window."""
LINES_A_TURN = 250
"""Lines read before yielding to the event loop: a fifth of a millisecond."""
_GRAIN = 1_000_000_000
"""Nanoseconds. A folder changed less than this before it was listed may have changed again within the same tick."""


class OwnChain(Protocol):
    """Chain of this process."""

    @property
    def writer(self) -> str:
        """Name of the chain."""
        ...

    @property
    def durable(self) -> int:
        """Number of the last line known to be durable; 0 if none is."""
        ...


class _Timed(msgspec.Struct):
    eventTime: str  # noqa: N815 (CloudTrail's name)


_decode = msgspec.json.Decoder(_Timed).decode
_EVENT_TIME = b'"eventTime":"'
_TIME = re.compile(rb"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z")
_TIME_LENGTH = len("2026-11-22T06:30:00Z")
_PARTS = 3


class TrailFollower:
    """Implements `kmsd.cloudwatch_logs.ports.AuditTrail`."""

    def __init__(self, directory: Path, own: OwnChain) -> None:
        """Create the follower of one process. Reads and locks nothing yet."""
        self._directory = directory
        self._own = own
        self._files: dict[str, list[FileName]] = {}
        self._listed = (-1, 0)
        """Modification time of the folder, and the time of its last listing, in nanoseconds."""
        self._synced: set[str] = set()
        self._claims: dict[str, int] = {}
        """Descriptors of the copy locks held, by writer."""

    async def chains(self) -> Sequence[TrailChain]:
        with _translated():
            return await asyncio.to_thread(self._chains)

    def _chains(self) -> list[TrailChain]:
        changed = self._directory.stat().st_mtime_ns
        if changed != self._listed[0] or self._listed[1] - changed < _GRAIN:
            looked = time.time_ns()
            self._files = {writer: [name for name, _ in found] for writer, found in files_of(self._directory).items()}
            self._listed = (changed, looked)
        return [
            TrailChain(
                writer,
                writer == self._own.writer,
                [str(name).removesuffix(SUFFIX) for name in names],
                self._mark(writer, names[-1]),
            )
            for writer, names in self._files.items()
        ]

    def _mark(self, writer: str, last: FileName) -> int:
        return self._own.durable if writer == self._own.writer else (self._directory / str(last)).stat().st_size

    async def lock_chain(self, writer: str) -> bool:
        if writer not in self._claims:
            with _translated():
                claim = await asyncio.to_thread(_lock, self._directory / f".{writer}.copy.lock")
            if claim == _LOCKED:
                return False
            self._claims[writer] = claim
        return True

    def unlock_chain(self, writer: str) -> None:
        claim = self._claims.pop(writer, None)
        if claim is not None:
            os.close(claim)

    async def read(self, writer: str, file: str, *, begin: int, skip: int) -> TrailBatch:
        last = self._own.durable if writer == self._own.writer else None
        found = _Found(begin, skip)
        while True:
            with _translated():
                read = await asyncio.to_thread(self._window, writer, file, found.end, last)
            if read is None:
                return TrailBatch((), (), (), begin, complete=False)
            window, complete = read
            end = found.end
            position = found.collect(window, 0, end, last)
            while position > 0:
                await asyncio.sleep(0)  # yield to the event loop
                position = found.collect(window, position, end, last)
            if found.times or complete or position == _RETRY_LATER:
                return found.batch(complete=complete or position == _RETRY_LATER)

    def _window(self, writer: str, file: str, begin: int, last: int | None) -> tuple[bytes, bool] | None:
        """Read like `_whole_lines`; None if another process writes this chain."""
        lock = None if last is not None else _lock(self._directory / f".{writer}.lock")
        if lock == _LOCKED:
            return None
        try:
            if lock is not None:
                replay(self._directory, writer)
            descriptor = os.open(self._directory / (file + SUFFIX), os.O_RDONLY | os.O_CLOEXEC)
            try:
                if lock is not None or file not in self._synced:
                    # A process that died may have left unsynced lines, which a power loss would take.
                    os.fdatasync(descriptor)
                    self._synced.add(file)
                return _whole_lines(descriptor, begin)
            finally:
                os.close(descriptor)
        finally:
            if lock is not None:
                os.close(lock)


_LOCKED = -1


def _lock(path: Path) -> int:
    """Return a descriptor that holds the lock; `_LOCKED` if another process holds it. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o640)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return _LOCKED
    return descriptor


def complete(directory: Path) -> None:
    """Replay the write-ahead logs of all chains that no process holds, as after a power loss. Raises OSError."""
    for path in directory.glob(path_of(Path(), "*").name) if directory.exists() else ():
        writer = path.name.removeprefix(".").removesuffix(".ahead")
        lock = _lock(directory / f".{writer}.lock")
        if lock != _LOCKED:
            try:
                replay(directory, writer)
            finally:
                os.close(lock)


def _whole_lines(descriptor: int, begin: int) -> tuple[bytes, bool]:
    """Read from byte `begin` on until a line ends in the window. Return it, and True if it reaches the file's end."""
    window = WINDOW
    while True:
        data = os.pread(descriptor, window, begin)
        complete = len(data) < window
        if complete or b"\n" in data:
            return data, complete
        window *= 2


_ALL = 0
_RETRY_LATER = -1


class _Found(msgspec.Struct):
    """Records collected for a batch."""

    end: int
    """Bytes of the file that have been read."""
    skip: int
    """Records still to skip."""
    times: list[int] = []
    texts: list[str] = []
    ends: list[int] = []

    def collect(self, window: bytes, position: int, begin: int, last: int | None) -> int:
        """Collect records of the window, which starts at `begin` in the file, up to line `last` of the chain.

        Start at `position` and stop after one turn. Return the next position; `_ALL` if no further line ends in the
        window; `_RETRY_LATER` if the next line comes after `last`.
        """
        for _ in range(LINES_A_TURN):
            stop = window.find(b"\n", position)
            if stop < 0:
                return _ALL
            # Classify a line by its bytes alone: the position of the copy is a count of records.
            parts = window[position:stop].split(b" ", _PARTS - 1)
            if len(parts) == _PARTS and parts[0].isdigit():
                if last is not None and int(parts[0]) > last:
                    return _RETRY_LATER
                if not parts[2].startswith(OWN):
                    self._add(parts[2], begin + stop + 1)
            position = stop + 1
            self.end = begin + position
        return position

    def _add(self, record: bytes, end: int) -> None:
        """Add a record, unless it is unreadable or to be skipped."""
        # In kmsd's records nothing before the member can contain this text: quotes within strings are escaped.
        begin = record.find(_EVENT_TIME) + len(_EVENT_TIME)
        try:
            at = _millis(record[begin : begin + _TIME_LENGTH])
            if at is None:
                at = _millis_of(_decode(record).eventTime)
            text = record.decode()
        except (msgspec.DecodeError, ValueError):
            return
        if self.skip:
            self.skip -= 1
            return
        self.times.append(at)
        self.texts.append(text)
        self.ends.append(end)

    def batch(self, *, complete: bool) -> TrailBatch:
        """Return the batch. If `complete`, records still to skip are reported as lacking."""
        return TrailBatch(self.times, self.texts, self.ends, self.end, complete, lacking=self.skip if complete else 0)


@lru_cache(maxsize=64)
def _millis(found: bytes) -> int | None:
    """Return the milliseconds of a record's time; None if it has another format. Cached: many records share a time.

    Raises `ValueError` for text that has the format but is not a valid time.
    """
    return _millis_of(found.decode()) if _TIME.fullmatch(found) else None


def _millis_of(time_text: str) -> int:
    return int(datetime.fromisoformat(time_text).timestamp() * 1000)


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise AuditUnavailable(f"the trail cannot be read: {exc.strerror or exc}") from exc
