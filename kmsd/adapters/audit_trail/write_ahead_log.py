"""Write-ahead log for an audit trail.

A batch is durable once it is in this preallocated file. Syncing the trail itself would also write its new size and
blocks to the file system's journal, where one sync waits for the other. Overwriting an allocated block takes one write:
less than half the time with two writers (docs/decisions/0016-write-ahead-file.md). A batch is appended to the trail,
which is not synced, and written to `.WRITER.ahead` with O_DIRECT. The trail is synced when this file is full, when the
trail continues in another file, and when it is closed. Then this file is overwritten from its start.

The file holds blocks, each at a multiple of 4096 bytes: a line of ASCII `kmsd-ahead 1 FILE OFFSET LENGTH SEQUENCE HASH`
(the file and offset of the lines in the trail, and the line of the chain before them), then the lines of the trail. The
owner of the writer's lock calls `replay` before it opens the trail: it restores lines that the trail lost in a power
failure.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import msgspec

from kmsd.adapters.audit_trail.format import FileName, Head, Malformed, digest_of, split
from kmsd.linux.aio import BLOCK_SIZE, Buffer, Write, round_up
from kmsd.linux.files import write_all, write_at

_HEAD = re.compile(rb"kmsd-ahead 1 ([!-~]{1,80}) ([0-9]{1,15}) ([0-9]{1,9}) ([0-9]{1,19}) ([0-9a-f]{64})\n")
_MAX_HEAD_BYTES = 256


class Block(msgspec.Struct, frozen=True):
    """Lines of a trail, and their position in it."""

    file: str
    offset: int
    lines: bytes
    before: Head
    """Head of the chain before these lines."""

    @property
    def end(self) -> int:
        """Offset in the trail's file after the lines."""
        return self.offset + len(self.lines)


class WriteAheadLog:
    """Write-ahead log of one writer, and the blocks that are durable only in it. Methods raise OSError."""

    def __init__(self, path: Path, size: int) -> None:
        """Create the file at its full size, so that nothing is allocated later.

        `size` is a multiple of `BLOCK_SIZE`.
        """
        self._path = path
        self._size = size
        self._at = 0
        self._blocks: list[Block] = []
        self._buffer = Buffer(size)
        path.unlink(missing_ok=True)
        try:
            _fill(path, size)
            self._descriptor = os.open(path, os.O_WRONLY | os.O_DIRECT | os.O_DSYNC | os.O_CLOEXEC)
            try:
                # A file system without O_DIRECT refuses here or in `os.open`.
                os.pwrite(self._descriptor, memoryview(self._buffer.memory)[:BLOCK_SIZE], 0)
            except OSError:
                os.close(self._descriptor)
                raise
        except OSError:
            path.unlink(missing_ok=True)
            raise

    def begin_write(self, block: Block) -> Write | None:
        """Prepare the write of `block`. None if the file is full: sync the trail and call `truncate`."""
        head = b"kmsd-ahead 1 %b %d %d %d %b\n" % (
            block.file.encode(),
            block.offset,
            len(block.lines),
            block.before.sequence,
            block.before.digest,
        )
        length = len(head) + len(block.lines)
        at, whole = self._at, round_up(length)
        if at + whole > self._size:
            return None
        # Not cleared up to `whole`: bytes of earlier blocks remain there, and the block's length excludes them.
        self._buffer.memory[at : at + length] = head + block.lines
        return Write(self._descriptor, self._buffer.address + at, whole, at)

    def commit(self, block: Block, write: Write) -> None:
        """Record that the write is done."""
        self._at = write.offset + write.length
        self._blocks.append(block)

    def truncate(self) -> None:
        """Start from the beginning: the trail has been synced."""
        self._at = 0
        self._blocks.clear()

    def rewrite(self, directory: Path) -> None:
        """Write the blocks that are durable only here to the trail again, sync it, and truncate this log.

        Writes from memory without reading the trail: pages that the kernel failed to write still read correctly.
        """
        if self._blocks:
            _put(directory / self._blocks[0].file, self._blocks)
        self.truncate()

    def close(self, *, remove: bool) -> None:
        """Close the file. Pass `remove` only if no block is durable in this file alone."""
        os.close(self._descriptor)
        if remove:
            self._path.unlink(missing_ok=True)


def _fill(path: Path, size: int) -> None:
    """Create a file of `size` zero bytes and sync it."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)
    try:
        write_all(descriptor, bytes(size))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def path_of(directory: Path, writer: str) -> Path:
    """Return the path of a writer's log. Its suffix differs from a trail's."""
    return directory / f".{writer}.ahead"


def replay(directory: Path, writer: str) -> None:
    """Complete a trail from the log that a process left, then remove the log. Durable on return. Raises OSError.

    The caller holds the writer's lock. A complete trail is only synced. A trail that does not continue as the log says,
    or that was archived, is not changed.
    """
    path = path_of(directory, writer)
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return
    blocks = list(_blocks(data, writer))
    if blocks:
        trail = directory / blocks[0].file
        if trail.exists() and _continues(trail, blocks[0]):
            # Sync the trail even if it is complete: its last lines may be in the page cache only.
            _put(trail, blocks if _lacks(trail, blocks) else [])
    path.unlink()


def _blocks(data: bytes, writer: str) -> Iterator[Block]:
    """Yield the blocks written since the last `truncate`: each continues where the previous one ends."""
    at, expected = 0, None
    while found := _HEAD.match(data, at, at + _MAX_HEAD_BYTES):
        begin, length = found.end(), int(found[3])
        block = Block(found[1].decode(), int(found[2]), data[begin : begin + length], Head(int(found[4]), found[5]))
        if not _is_file_of(writer, block.file) or len(block.lines) != length:
            return
        if expected is not None and (block.file, block.offset, block.before) != expected:
            return
        head = _followed(block)
        if head is None:
            return
        yield block
        expected = (block.file, block.end, head)
        at = round_up(begin + length)


def _is_file_of(writer: str, file: str) -> bool:
    name = FileName.parse(file)
    return name is not None and name.writer == writer


def _followed(block: Block) -> Head | None:
    """Return the chain's head after the block's lines; None if they are not valid lines: the write was torn."""
    head = block.before
    if not block.lines.endswith(b"\n"):
        return None
    for line in block.lines[:-1].split(b"\n"):
        try:
            printed, record = split(line)
        except Malformed:
            return None
        if printed.sequence != head.sequence + 1 or printed.digest != digest_of(head.digest, record):
            return None
        head = printed
    return head


def _continues(trail: Path, block: Block) -> bool:
    """True if the trail has, right before the block's offset, the line that the block follows."""
    if block.offset == 0:
        return True
    with trail.open("rb") as file:
        if file.seek(0, os.SEEK_END) < block.offset:
            return False
        start = max(0, block.offset - _MAX_LINE_BYTES)
        file.seek(start)
        before = file.read(block.offset - start)
    line = before[before.rfind(b"\n", 0, -1) + 1 :]
    try:
        return line.endswith(b"\n") and split(line[:-1])[0] == block.before
    except Malformed:
        return False


_MAX_LINE_BYTES = 4 * 1024 * 1024
"""Bytes; longer than any request, and so than any record."""


def _lacks(trail: Path, blocks: list[Block]) -> bool:
    with trail.open("rb") as file:
        file.seek(blocks[0].offset)
        return any(file.read(len(block.lines)) != block.lines for block in blocks)


def _put(trail: Path, blocks: list[Block]) -> None:
    """Write blocks at their offsets in the trail's file, and sync it. Does nothing if the file was moved away."""
    try:
        descriptor = os.open(trail, os.O_WRONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        for block in blocks:
            write_at(descriptor, block.lines, block.offset)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
