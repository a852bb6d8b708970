"""Catalog of a group's segments in one process, refreshed before each use.

A refresh lists the folder, unless its modification time is older than the last listing by more than the clock's
granularity. It also checks the size of each unfinished segment and reads what was appended. Of finished segments only
the summary stays in memory. Their frames are read from the index when needed and evicted least recently used first
(`Frames`). Frames of unfinished segments are kept from the first search on: a process that only reads summaries, such
as for the copy of the audit trail, keeps none.
"""

from __future__ import annotations

import heapq
import os
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path

import structlog

from kmsd.cloudwatch_logs.frames import WrappedKey
from kmsd.cloudwatch_logs.ports import FrameQuery, SegmentDamaged, SegmentsUnavailable, StoredFrame, StreamSummary
from kmsd.cloudwatch_logs.segments import files
from kmsd.cloudwatch_logs.segments import format as fmt
from kmsd.cloudwatch_logs.segments.format import Contents, NotASegment, Placed

MAX_ENTRIES = 200_000
"""Limit on the frames and data keys of finished segments that a process caches; at most 40 MB of frames."""
_GRAIN = 1_000_000_000
"""Nanoseconds. A folder that changed this shortly before it was listed may have changed again in the same tick."""

log = structlog.get_logger()


class Frames:
    """LRU cache of the contents of finished segments, read from their indexes when needed."""

    def __init__(self) -> None:
        self._cached: OrderedDict[tuple[bytes, str], Contents] = OrderedDict()
        self._count = 0

    def of(self, segment: Segment) -> Contents:
        """Return the frames and data keys of one segment."""
        place = (segment.group_id, segment.name)
        held = self._cached.get(place)
        if held is None:
            held = self._cached[place] = segment.load()
            self._count += _weight(held)
            while self._count > MAX_ENTRIES and len(self._cached) > 1:
                _, gone = self._cached.popitem(last=False)
                self._count -= _weight(gone)
        else:
            self._cached.move_to_end(place)
        return held


def _weight(contents: Contents) -> int:
    return len(contents.frames) + len(contents.keys)


class Segment:
    """Segment of a group."""

    __slots__ = ("contents", "finished", "folder", "group_id", "name", "searched", "streams")

    def __init__(self, folder: Path, group_id: bytes, name: str) -> None:
        self.folder = folder
        self.group_id = group_id
        self.name = name
        self.finished = False
        self.searched = False
        """True if frames are kept while the segment is unfinished."""
        self.contents = Contents()
        self.streams: dict[bytes, StreamSummary] = {}

    @property
    def path(self) -> Path:
        """Return the path of the segment file."""
        return self.folder / (self.name + files.SEGMENT)

    def grow(self) -> None:
        """Read what was appended. Raises OSError."""
        size = self.path.stat().st_size
        if size < self.contents.end:
            # Its writer failed to sync the last write and cut it off.
            self.contents, self.streams = Contents(), {}
        known, damaged = self.contents.frames, self.contents.damaged
        if size > self.contents.end:
            self.contents.frames = []
            try:
                files.scan_file(self.path, self.contents, self.group_id, growing=True)
            except NotASegment:
                self.contents.damaged, self.contents.end = size, size
            if self.contents.frames:
                self.streams = fmt.summarize(self.contents.frames, self.streams)
            if self.searched:
                known += self.contents.frames
            self.contents.frames = known
            if self.contents.damaged > damaged:
                log.error("log_segment_damaged", segment=str(self.path), bytes=self.contents.damaged)

    def frames(self) -> list[Placed]:
        """Return the frames of an unfinished segment. Raises `SegmentsUnavailable`."""
        if not self.searched:
            self.searched, self.contents, self.streams = True, Contents(), {}
            try:
                self.grow()
            except FileNotFoundError:
                return []  # removed in the meantime; the next listing of the folder omits it
            except OSError as exc:
                self.searched = False
                raise SegmentsUnavailable(exc.strerror or str(exc)) from exc
        return self.contents.frames

    def sync(self) -> None:
        """Switch to the index of a segment that is now finished; if that is damaged, keep reading the segment."""
        self.finished = True
        try:
            self.contents, self.streams = files.read_summary(self.folder, self.name, self.group_id)
            self.contents.keys = {}  # there is one every ten seconds; `Frames` loads them when they are needed
        except (OSError, NotASegment):
            log.exception("log_index_damaged", segment=str(self.path))
            self.finished = False
            self.grow()

    def load(self) -> Contents:
        """Return all contents of a finished segment's index. Raises `SegmentDamaged`."""
        try:
            return files.read_index(self.folder, self.name, self.group_id)
        except FileNotFoundError:
            return Contents()  # replaced or removed in the meantime; the next listing finds its successor
        except (OSError, NotASegment) as exc:
            raise SegmentDamaged(self.name, self.first_at, self.last_at) from exc

    @property
    def first_at(self) -> int:
        """Return the timestamp of its oldest event; 0 if it has none."""
        return min((stream.first_at for stream in self.streams.values()), default=0)

    @property
    def last_at(self) -> int:
        """Return the timestamp of its newest event; 0 if it has none."""
        return max((stream.last_at for stream in self.streams.values()), default=0)

    def bounds(self, wanted: FrameQuery) -> tuple[int, int] | None:
        """Return first and last time of the wanted streams; None if the segment cannot hold what is wanted."""
        names = self.streams.keys() if wanted.streams is None else self.streams.keys() & wanted.streams
        found = [self.streams[name] for name in names]
        if not found:
            return None
        first, last = min(one.first_at for one in found), max(one.last_at for one in found)
        return (first, last) if first < wanted.end and last >= wanted.start else None


class Catalog:
    """Segments of one group."""

    def __init__(self, folder: Path, group_id: bytes, frames: Frames) -> None:
        self._folder = folder
        self._group_id = group_id
        self._frames = frames
        self._segments: dict[str, Segment] = {}
        self._listed: tuple[int, int] = (-1, 0)
        """Modification time of the folder, and when it was listed, both in nanoseconds."""

    def refresh(self) -> None:
        """Update the catalog from the disk. Raises OSError."""
        try:
            changed = self._folder.stat().st_mtime_ns
        except FileNotFoundError:
            self._segments.clear()
            return
        if changed != self._listed[0] or self._listed[1] - changed < _GRAIN:
            looked = time.time_ns()
            self._list()
            self._listed = (changed, looked)
        for segment in [one for one in self._segments.values() if not one.finished]:
            try:
                segment.grow()
            except FileNotFoundError:
                self._segments.pop(segment.name, None)

    def _list(self) -> None:
        listed = files.listing(self._folder)
        names = {name for name, _ in listed}
        for gone in [name for name in self._segments if name not in names]:
            del self._segments[gone]
        for name, finished in listed:
            segment = self._segments.get(name)
            if segment is None:
                segment = self._segments[name] = Segment(self._folder, self._group_id, name)
            if finished and not segment.finished:
                segment.sync()

    def segments(self) -> list[Segment]:
        """Return the segments found by the last `refresh`."""
        return list(self._segments.values())

    def frames_of(self, segment: Segment) -> list[Placed]:
        """Return the segment's frames in the order in which they were written."""
        return self._frames.of(segment).frames if segment.finished else segment.frames()

    def key(self, stored: StoredFrame) -> WrappedKey:
        """Return the data key of a frame. Raises `SegmentDamaged`, `SegmentsUnavailable`."""
        segment = self._segments.get(stored.segment)
        if segment is None:
            raise SegmentsUnavailable("a segment was replaced while it was read")
        contents = self._frames.of(segment) if segment.finished else segment.contents
        found = contents.keys.get(stored.frame.data_key_id)
        if found is None and not segment.path.exists():
            raise SegmentsUnavailable("a segment was replaced while it was read")
        if found is None:
            raise SegmentDamaged(stored.segment, stored.frame.first_at, stored.frame.last_at)
        return found

    def summaries(self) -> Mapping[bytes, StreamSummary]:
        """Implement `Segments.summaries`."""
        found: dict[bytes, StreamSummary] = {}
        for segment in self._segments.values():
            for stream_id, summary in segment.streams.items():
                known = found.get(stream_id)
                found[stream_id] = summary if known is None else fmt.join(known, summary)
        return found

    def find(self, wanted: FrameQuery) -> Iterator[StoredFrame]:
        """Implement `Segments.find`: segments are opened only when the order reaches them."""
        reachable = []
        for segment in self._segments.values():
            bounds = segment.bounds(wanted)
            if bounds is not None:
                reachable.append((-bounds[1] if wanted.descending else bounds[0], segment.name, segment))
        heapq.heapify(reachable)
        ahead: list[tuple[int, bytes, str, Placed]] = []
        while reachable or ahead:
            while reachable and (not ahead or reachable[0][0] <= ahead[0][0]):
                _, _, segment = heapq.heappop(reachable)
                ahead += self._matching(segment, wanted)
                heapq.heapify(ahead)
            if ahead:
                _, _, name, placed = heapq.heappop(ahead)
                yield StoredFrame(placed.frame, name, placed.offset, placed.length)

    def _matching(self, segment: Segment, wanted: FrameQuery) -> list[tuple[int, bytes, str, Placed]]:
        start, end, streams, name = wanted.start, wanted.end, wanted.streams, segment.name
        found = [
            (frame, placed)
            for placed in self.frames_of(segment)
            if (frame := placed.frame).first_at < end
            and frame.last_at >= start
            and (streams is None or frame.stream_id in streams)
        ]
        if wanted.descending:
            return [(-frame.last_at, frame.frame_id, name, placed) for frame, placed in found]
        return [(frame.first_at, frame.frame_id, name, placed) for frame, placed in found]


def read_frames(folder: Path, stored: list[StoredFrame]) -> list[bytes]:
    """Return the encrypted events of frames, in their order. Blocking. Raises `SegmentDamaged`, OSError."""
    found: list[bytes] = []
    descriptors: dict[str, int] = {}
    try:
        for one in stored:
            descriptor = descriptors.get(one.segment)
            if descriptor is None:
                path = folder / (one.segment + files.SEGMENT)
                descriptor = descriptors[one.segment] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            sealed = os.pread(descriptor, one.length, one.offset)
            if len(sealed) != one.length:
                raise SegmentDamaged(one.segment, one.frame.first_at, one.frame.last_at)
            found.append(sealed)
    finally:
        for descriptor in descriptors.values():
            os.close(descriptor)
    return found
