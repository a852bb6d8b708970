"""Segment files: naming, finishing, reading and replacing. Blocking; called in threads."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from kmsd.cloudwatch_logs.ports import StreamSummary
from kmsd.cloudwatch_logs.segments import format as fmt
from kmsd.cloudwatch_logs.segments.direct_writers import MAX_DIRECT_WRITE_BYTES
from kmsd.cloudwatch_logs.segments.format import Contents, NotASegment, Placed
from kmsd.cloudwatch_logs.segments.windowed_file import WindowedFile
from kmsd.linux.files import sync_folder, write_all

SEGMENT = ".seg"
INDEX = ".idx"
TEMPORARY = ".tmp"
MAX_BUNDLE_BYTES = MAX_DIRECT_WRITE_BYTES + 2_097_152
"""Limit on the bytes that a writer has in flight: one direct write, or one frame."""
MAX_WRITE_SECONDS = 10.0
"""Seconds after the last change of a segment's size; unreadable data then counts as damage, not as being written."""
_SEGMENT_NAME = re.compile(r"([0-9a-f]{20})-([0-9]+)\.seg")
_GROUP_NAME = re.compile(r"[0-9a-f]{32}")


class Listed(NamedTuple):
    """Segment in a folder."""

    name: str
    finished: bool
    """True if it has an index: no process writes to it any more."""


def listing(folder: Path) -> list[Listed]:
    """List a group's segments, oldest first. Of a segment that is being replaced, list only the newer one."""
    try:
        names = {entry.name for entry in os.scandir(folder)}
    except FileNotFoundError:
        return []
    newest: dict[str, tuple[int, str]] = {}
    for name in names:
        found = _SEGMENT_NAME.fullmatch(name)
        if found is not None:
            newest[found[1]] = max(newest.get(found[1], (-1, "")), (int(found[2]), name.removesuffix(SEGMENT)))
    return [Listed(name, name + INDEX in names) for _, (_, name) in sorted(newest.items())]


def groups(root: Path) -> list[Path]:
    """Return the folders of groups; other entries of the root are ignored."""
    try:
        return [Path(entry.path) for entry in os.scandir(root) if entry.is_dir() and _GROUP_NAME.fullmatch(entry.name)]
    except FileNotFoundError:
        return []


def next_generation(name: str) -> str:
    """Return the name of the segment that replaces `name`."""
    base, _, generation = name.partition("-")
    return f"{base}-{int(generation) + 1}"


def sync_segments(paths: list[Path]) -> None:
    """Make contents durable. Segments that were finished and replaced in the meantime are skipped."""
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fdatasync(descriptor)
            finally:
                os.close(descriptor)


def write_durably(path: Path, write: Callable[[int], None]) -> None:
    """Create a complete file or none. The folder is not synced."""
    temporary = path.with_name(path.name + TEMPORARY)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        write(descriptor)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    temporary.rename(path)


def write_index(folder: Path, name: str, contents: Contents, group_id: bytes) -> None:
    """Finish a segment by writing its index."""
    data = fmt.index(contents, group_id)
    write_durably(folder / (name + INDEX), lambda descriptor: write_all(descriptor, data))
    sync_folder(folder)


def read_summary(folder: Path, name: str, group_id: bytes) -> tuple[Contents, dict[bytes, StreamSummary]]:
    """Return keys and streams of a finished segment. Raises `NotASegment`, OSError."""
    with (folder / (name + INDEX)).open("rb") as file:
        start = file.read(fmt.INDEX_START)
        summary, _ = fmt.index_lengths(start, group_id)
        return fmt.read_summary(start, file.read(summary))


def read_index(folder: Path, name: str, group_id: bytes) -> Contents:
    """Return all contents of a finished segment. Raises `NotASegment`, OSError."""
    with (folder / (name + INDEX)).open("rb") as file:
        start = file.read(fmt.INDEX_START)
        summary, entries = fmt.index_lengths(start, group_id)
        contents, _ = fmt.read_summary(start, file.read(summary))
        contents.frames = fmt.read_entries(start, file.read(entries))
        return contents


def scan_file(path: Path, contents: Contents, group_id: bytes, *, synced: bool = False, growing: bool = False) -> None:
    """Continue reading an unfinished segment from `contents.end`. Raises `NotASegment`, OSError.

    `synced`: all of it is known to be on disk, so frames are not searched for unwritten sectors.
    `growing`: another process may be writing to it now.
    """
    at_first = contents.end == fmt.HEADER_LENGTH
    with path.open("rb") as file:
        found = os.fstat(file.fileno())
        size = found.st_size

        def is_coming(position: int) -> bool:
            recent = time.time() - found.st_mtime < MAX_WRITE_SECONDS
            near = size - position <= MAX_BUNDLE_BYTES
            # A writer that closed cleanly in the meantime left a complete index.
            return recent and near and (_has_writer(file.fileno()) or path.with_suffix(INDEX).exists())

        data = WindowedFile(file.fileno())
        head = data.part(0, fmt.HEADER_LENGTH)
        if size < fmt.HEADER_LENGTH or (not any(head) and data.is_blank(size)):
            return  # its writer has just created it
        fmt.check_header(head, group_id)
        fmt.scan(data, contents, size, is_coming if growing else None)
        if at_first and not synced and not (growing and _has_writer(file.fileno())):
            fmt.leave_out_torn(data, contents)  # a power failure may have torn frames, but not of a live writer


def _has_writer(descriptor: int) -> bool:
    """True if a process holds the segment's lock."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    return False


def remove(folder: Path, name: str) -> None:
    """Remove a segment and then its index: an index without a segment is ignored."""
    for suffix in (SEGMENT, INDEX):
        with contextlib.suppress(FileNotFoundError):
            (folder / (name + suffix)).unlink()


def rewrite(folder: Path, name: str, group_id: bytes, keep: list[Placed], contents: Contents) -> None:
    """Replace a finished segment by one with only the frames `keep`, copied as they are: this needs no data key."""
    fresh = Contents(damaged=contents.damaged)
    new_name = next_generation(name)
    used = {placed.frame.data_key_id for placed in keep}
    with (folder / (name + SEGMENT)).open("rb") as old:

        def copy(descriptor: int) -> None:
            head = fmt.header(group_id)
            head += b"".join(fmt.key_record(key) for key_id, key in contents.keys.items() if key_id in used)
            write_all(descriptor, head)
            fresh.keys = {key_id: key for key_id, key in contents.keys.items() if key_id in used}
            fresh.end = len(head)
            for placed in keep:
                sealed = os.pread(old.fileno(), placed.length, placed.offset)
                write_all(descriptor, fmt.before_frame(placed.frame, len(sealed)) + sealed + fmt.END)
                fresh.frames.append(Placed(placed.frame, fresh.end + fmt.FRAME_BODY, len(sealed)))
                fresh.end += fmt.AROUND + len(sealed)

        temporary = folder / (new_name + SEGMENT)
        # Write the index first: the new segment must be complete as soon as it has its name.
        staged = folder / (new_name + ".staged")
        write_durably(staged, copy)
        write_index(folder, new_name, fresh, group_id)
        staged.rename(temporary)
    sync_folder(folder)
    remove(folder, name)


__all__ = [
    "INDEX",
    "SEGMENT",
    "TEMPORARY",
    "Listed",
    "NotASegment",
    "groups",
    "listing",
    "next_generation",
    "read_index",
    "read_summary",
    "remove",
    "rewrite",
    "scan_file",
    "sync_segments",
    "write_durably",
    "write_index",
]
