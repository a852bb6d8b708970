"""The trail for the process that copies its records into a log group; implements `kmsd.ports_logs.AuditTrail`.

What counts as written is what can never be taken back. Of its own chain a process knows the last durable line.
Of a chain that is left (by commands; by workers that were stopped or killed) it reads while it holds the writer's lock:
then nobody writes, and whoever opens the chain next goes on after the last whole line. Who copies a chain holds another
lock, from the first look at the copy until the last batch is in it.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import msgspec

from kmsd.adapters.journal.ahead import path_of, redo
from kmsd.adapters.journal.lines import OWN, SUFFIX, FileName, files_of
from kmsd.ports import AuditUnavailable
from kmsd.ports_logs import TrailBatch, TrailChain, TrailRecord

MOST_RECORDS = 1_000
MOST_BYTES = 1_000_000
"""What a batch holds; its last record may exceed the second."""
YIELD_LINES = 50
"""Lines between two moments at which the process's event loop can have the interpreter: its callers come first."""
CHUNK = 1_048_576
_GRAIN = 1_000_000_000
"""Nanoseconds: a folder that changed so shortly before it was listed may have changed again within the same tick."""
_PARTS = 3


class Own(Protocol):
    """The chain of this process."""

    @property
    def writer(self) -> str:
        """Its name."""
        ...

    @property
    def durable(self) -> int:
        """The number of its last line that is durable; 0: none is known to be."""
        ...


class _Timed(msgspec.Struct):
    eventTime: str  # noqa: N815 (CloudTrail's name)


_decode = msgspec.json.Decoder(_Timed).decode
_EVENT_TIME = b'"eventTime":"'
_TIME = re.compile(rb"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z")
_TIME_LENGTH = len("2026-11-22T06:30:00Z")


class TrailReader:
    """Implements `kmsd.ports_logs.AuditTrail`."""

    def __init__(self, directory: Path, own: Own) -> None:
        """Of one process; nothing is read or locked yet."""
        self._directory = directory
        self._own = own
        self._files: dict[str, list[FileName]] = {}
        self._listed = (-1, 0)
        """When the folder had changed, and when that was read."""
        self._synced: set[str] = set()
        self._claims: dict[str, int] = {}
        """By writer: the descriptor that holds the lock of who copies."""

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

    async def claim(self, writer: str) -> bool:
        if writer not in self._claims:
            with _translated():
                claim = await asyncio.to_thread(_lock, self._directory / f".{writer}.copy.lock")
            if claim == _BUSY:
                return False
            self._claims[writer] = claim
        return True

    def release(self, writer: str) -> None:
        claim = self._claims.pop(writer, None)
        if claim is not None:
            os.close(claim)

    async def read(self, writer: str, file: str, *, begin: int, skip: int) -> TrailBatch:
        last = self._own.durable if writer == self._own.writer else None
        with _translated():
            return await asyncio.to_thread(self._read, writer, file, begin, skip, last)

    def _read(self, writer: str, file: str, begin: int, skip: int, last: int | None) -> TrailBatch:
        lock = None if last is not None else _lock(self._directory / f".{writer}.lock")
        if lock == _BUSY:
            return TrailBatch((), begin, complete=False)
        try:
            if lock is not None:
                redo(self._directory, writer)
            with (self._directory / (file + SUFFIX)).open("rb") as trail:
                if lock is not None or file not in self._synced:
                    # What a process that died had not synced is in the file, and would be gone with the power.
                    os.fdatasync(trail.fileno())
                    self._synced.add(file)
                trail.seek(begin)
                return _batch(_lines(trail.read, begin), begin, skip, last)
        finally:
            if lock is not None:
                os.close(lock)


_BUSY = -1


def _lock(path: Path) -> int:
    """A descriptor that holds a lock; `_BUSY` if another process does. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o640)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return _BUSY
    return descriptor


def complete(directory: Path) -> None:
    """Complete the chains that processes left whom a loss of power ended. Raises OSError."""
    for path in directory.glob(path_of(Path(), "*").name) if directory.exists() else ():
        writer = path.name.removeprefix(".").removesuffix(".ahead")
        lock = _lock(directory / f".{writer}.lock")
        if lock != _BUSY:
            try:
                redo(directory, writer)
            finally:
                os.close(lock)


def _lines(read: Callable[[int], bytes], begin: int) -> Iterator[tuple[bytes, int]]:
    """Whole lines, each with where it ends."""
    rest = b""
    while chunk := read(CHUNK):
        lines = (rest + chunk).split(b"\n")
        rest = lines.pop()
        for line in lines:
            begin += len(line) + 1
            yield line, begin


def _batch(lines: Iterator[tuple[bytes, int]], begin: int, skip: int, last: int | None) -> TrailBatch:
    """The records among `lines`, up to line `last` of the chain."""
    records: list[TrailRecord] = []
    size, end = 0, begin
    for number, (line, after) in enumerate(lines):
        if number % YIELD_LINES == 0:
            time.sleep(0)
        if len(records) >= MOST_RECORDS or size >= MOST_BYTES:
            return TrailBatch(records, end, complete=False)
        found = _record(line, after, last)
        if found is _LATER:
            break
        end = after
        if isinstance(found, TrailRecord):
            if skip > 0:
                skip -= 1
            else:
                records.append(found)
                size += len(line)
    return TrailBatch(records, end, complete=True, lacking=skip)


_LATER = object()


def _record(line: bytes, after: int, last: int | None) -> TrailRecord | object | None:
    """The record of a line; None for one of the trail's own and for what cannot be read; `_LATER` for one after `last`.

    What a line is depends on its bytes alone: records are counted to know how far the copy has come.
    """
    parts = line.split(b" ", _PARTS - 1)
    if len(parts) != _PARTS or not parts[0].isdigit():
        return None
    if last is not None and int(parts[0]) > last:
        return _LATER
    if parts[2].startswith(OWN):
        return None
    try:
        return TrailRecord(_millis(_time_of(parts[2])), parts[2].decode(), after)
    except (msgspec.DecodeError, ValueError):
        return None


def _time_of(record: bytes) -> str:
    """`eventTime`. In records of ours nothing before it can hold this text: within strings quotes are escaped.

    Raises `msgspec.DecodeError`.
    """
    begin = record.find(_EVENT_TIME) + len(_EVENT_TIME)
    found = record[begin : begin + _TIME_LENGTH]
    return found.decode() if _TIME.fullmatch(found) else _decode(record).eventTime


@lru_cache(maxsize=64)
def _millis(time_text: str) -> int:
    """Milliseconds of a record's time; many have the same. Raises `ValueError`."""
    return int(datetime.fromisoformat(time_text).timestamp() * 1000)


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise AuditUnavailable(f"the trail cannot be read: {exc.strerror or exc}") from exc
