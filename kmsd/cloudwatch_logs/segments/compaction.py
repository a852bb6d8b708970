"""Background maintenance of segments: finish those that dead processes left open, remove expired events.

Blocking; called in threads. Only finished segments are replaced or removed. A reader with an older list finds the
replacement when it lists the folder again.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import structlog

from kmsd.cloudwatch_logs.ports import DropResult
from kmsd.cloudwatch_logs.segments import files
from kmsd.cloudwatch_logs.segments.catalog import Catalog
from kmsd.cloudwatch_logs.segments.format import Contents, NotASegment, Placed

MIN_RECLAIM_RATIO = 0.25
"""Share of expired data from which a segment is rewritten."""
MAX_EXPIRED_AGE_MS = 86_400_000
"""Milliseconds since expiry from which a segment is rewritten even for a smaller share."""

log = structlog.get_logger()


def finish_leftovers(root: Path) -> None:
    """Finish every segment that has no index and no writer."""
    for folder in files.groups(root):
        for name, finished in files.listing(folder):
            if not finished:
                _finish(folder, name, bytes.fromhex(folder.name))


def _finish(folder: Path, name: str, group_id: bytes) -> None:
    path = folder / (name + files.SEGMENT)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return  # its writer is alive
    try:
        if (folder / (name + files.INDEX)).exists():
            return  # it was finished between the list and the lock
        contents = Contents()
        try:
            files.scan_file(path, contents, group_id)
        except NotASegment:
            log.exception("log_segment_invalid", segment=str(path))
            return
        torn = len(_after(descriptor, contents.end).rstrip(b"\0"))
        if torn > 0 or contents.damaged:
            # A torn end was never acknowledged. A damaged spot before complete records was.
            log.warning("log_segment_recovered", segment=str(path), torn=torn, damaged=contents.damaged)
        else:
            # Cut off the zeros of the last block and the space reserved for the dead writer.
            os.truncate(path, contents.end)
        # The last frame may be complete but unsynced. Sync before the index names it: a power failure must not lose it.
        os.fdatasync(descriptor)
        files.write_index(folder, name, contents, group_id)
    finally:
        os.close(descriptor)


def _after(descriptor: int, end: int) -> bytes:
    """Return the bytes after the last complete record."""
    return os.pread(descriptor, max(os.fstat(descriptor).st_size - end, 0), end)


def apply_retention(
    folder: Path, group_id: bytes, catalog: Catalog, before: int, dead_streams: frozenset[bytes]
) -> DropResult:
    """Implement `Segments.apply_retention` for one group."""
    removed = rewritten = 0
    for segment in catalog.segments():
        if not segment.finished:
            continue
        live = [stream for name, stream in segment.streams.items() if name not in dead_streams]
        if all(stream.last_at < before for stream in live):
            files.remove(folder, segment.name)
            removed += 1
        elif len(live) < len(segment.streams) or any(stream.first_at < before for stream in live):
            contents = segment.load()
            frames = contents.frames
            keep = [one for one in frames if one.frame.last_at >= before and one.frame.stream_id not in dead_streams]
            if _worth_it(frames, keep, before, dead_streams):
                files.rewrite(folder, segment.name, group_id, keep, contents)
                rewritten += 1
    return DropResult(removed, rewritten)


def _worth_it(frames: list[Placed], keep: list[Placed], before: int, dead_streams: frozenset[bytes]) -> bool:
    """True if a segment should be rewritten: at once for deleted streams, for expired events if many or very old."""
    if len(keep) == len(frames):
        return False
    if any(one.frame.stream_id in dead_streams or one.frame.last_at < before - MAX_EXPIRED_AGE_MS for one in frames):
        return True
    return sum(one.length for one in keep) <= (1 - MIN_RECLAIM_RATIO) * sum(one.length for one in frames)
