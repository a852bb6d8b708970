"""Ordered reading of a group's events in bounded memory: frames are opened only when the order reaches them."""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from functools import partial
from operator import attrgetter
from typing import NamedTuple

import msgspec

from kmsd.cloudwatch_logs import frame_codec
from kmsd.cloudwatch_logs.data_keys import DataKey
from kmsd.cloudwatch_logs.events import LogEvent, position_at
from kmsd.cloudwatch_logs.frames import Frame
from kmsd.cloudwatch_logs.groups import LogGroup
from kmsd.cloudwatch_logs.ports import FrameQuery, LogReader, LogStore, SegmentDamaged, StoredFrame
from kmsd.cloudwatch_logs.service import LogsService
from kmsd.cloudwatch_logs.work_budget import Budget

MAX_FRAMES = 16
"""Limit on the frames opened at once, except in the batch that fills a page."""
MAX_BYTES = 2_097_152
"""Limit on the bytes of events opened at once."""
MAX_EVENTS = 20_000
FRAMES_PER_PAGE = 64
"""Limit on the frames of a batch that should fill a page."""
MIN_FRAMES_FOR_TWO_THREADS = 4
"""Number of frames from which two threads share the work."""
_EVENT_BYTES = 256
"""Memory of an event in bytes, in addition to its text."""
_BY_POSITION = attrgetter("position")


class PageBudget(NamedTuple):
    """Capacity of a page, in events and bytes."""

    events: int
    size: int


class EventReader(msgspec.Struct):
    """One pass over the events of one group."""

    logs: LogsService
    store: LogStore
    group: LogGroup
    now: datetime
    names: dict[bytes, str] = {}
    """Stream names seen so far, by id. Frames of deleted streams are skipped unopened."""
    shown: bool = False
    """True if events are rendered as GetLogEvents shows them; their frames are then cached (`OpenedFrames`)."""
    scanned: int = 0
    """Bytes of events opened so far."""
    budget: Budget | None = None
    """Budget for the events in memory; its owner closes it."""
    _cached: int = 0
    _dead: set[bytes] = msgspec.field(default_factory=set)

    async def events(
        self, wanted: FrameQuery, *, after: int = -1, before: int | None = None, most: PageBudget | None = None
    ) -> AsyncIterator[list[LogEvent]]:
        """Yield the events between two positions (both excluded), in runs that follow the order of `wanted`.

        `most` is what the caller will probably read: the first batch holds that much, later batches start small.
        Raises AccessDeniedException at the first frame whose key cannot be used, `SegmentDamaged` at the first frame
        that is not what was written, `TooLarge` if the budget is exhausted.
        """
        low = max(position_at(wanted.start), after + 1)
        high = position_at(wanted.end) if before is None else min(position_at(wanted.end), before)
        pending: list[LogEvent] = []
        async for frames, following in _batches(self.logs.segments.find(self.group.group_id, wanted), most):
            self._cache(self._cached + sum(one.frame.size + _EVENT_BYTES * one.frame.events for one in frames))
            reader = await self.store.read()
            for frame, events in await self._open(reader, await self._alive(reader, frames)):
                inside = position_at(frame.first_at) >= low and position_at(frame.last_at + 1) <= high
                pending += events if inside else [event for event in events if low <= event.position < high]
            pending.sort(key=_BY_POSITION)
            run, pending = _finished(pending, following, descending=wanted.descending)
            if run:
                yield run
            self._cache(sum(len(event.message) + _EVENT_BYTES for event in pending))

    def _cache(self, size: int) -> None:
        """Set the number of bytes that count against the budget."""
        if self.budget is not None:
            self.budget.reserve(size - self._cached)
            self._cached = size

    async def _alive(self, reader: LogReader, frames: Sequence[StoredFrame]) -> list[StoredFrame]:
        unknown = {stored.frame.stream_id for stored in frames} - self.names.keys() - self._dead
        if unknown:
            self.names.update(await reader.log_stream_names(self.group.group_id, tuple(unknown)))
            self._dead |= unknown - self.names.keys()
        return [stored for stored in frames if stored.frame.stream_id in self.names]

    async def _open(self, reader: LogReader, frames: Sequence[StoredFrame]) -> list[tuple[Frame, list[LogEvent]]]:
        keys = await self._keys(reader, frames)
        self.scanned += sum(one.frame.size for one in frames)
        if not self.shown:
            return list(zip((one.frame for one in frames), await self._reopen(frames, keys), strict=True))
        group_id, opened = self.group.group_id, self.logs.opened
        found = {one.frame: opened.get(keys[one.frame.data_key_id], group_id, one.frame) for one in frames}
        lacking = [one for one in frames if found[one.frame] is None]
        if lacking:
            for one, events in zip(lacking, await self._reopen(lacking, keys), strict=True):
                opened.keep(keys[one.frame.data_key_id], group_id, one.frame, events)
                found[one.frame] = events
        return [(frame, events) for frame, events in found.items() if events is not None]

    async def _reopen(self, frames: Sequence[StoredFrame], keys: dict[bytes, DataKey]) -> list[list[LogEvent]]:
        """Read and decrypt frames; on two threads if there are enough of them."""
        sealed = await self.logs.segments.read(self.group.group_id, frames)
        work = [(one, text, keys[one.frame.data_key_id]) for one, text in zip(frames, sealed, strict=True)]
        parts = [work] if len(work) < MIN_FRAMES_FOR_TWO_THREADS else [work[: len(work) // 2], work[len(work) // 2 :]]
        act = partial(frame_codec.open_frames, self.group.group_id, shown=self.shown)
        counted = self.logs.evaluation.counted
        opened = await asyncio.gather(*(asyncio.to_thread(counted, partial(act, part)) for part in parts if part))
        return [events for part in opened for events in part]

    async def _keys(self, reader: LogReader, frames: Sequence[StoredFrame]) -> dict[bytes, DataKey]:
        """Return the data keys of frames. State and policy of the customers' keys are checked on every call."""
        subject = frame_codec.subject_of(self.group)
        wrapped = await self.logs.segments.data_keys(self.group.group_id, frames) if frames else {}
        if any(key.context_arn != subject.arn for key in wrapped.values()):
            raise SegmentDamaged("a data key of another group")
        opened = await asyncio.gather(
            *(self.logs.keys.decryption_key(reader, subject, key, self.now) for key in wrapped.values())
        )
        return dict(zip(wrapped, opened, strict=True))


async def _batches(
    frames: AsyncIterator[StoredFrame], most: PageBudget | None
) -> AsyncIterator[tuple[list[StoredFrame], StoredFrame | None]]:
    """Yield frames in batches, each with the frame that follows it. Batches grow, so that a small page opens little."""
    longest = 2 if most is None else FRAMES_PER_PAGE
    wanted = PageBudget(MAX_EVENTS, MAX_BYTES) if most is None else most
    ahead = await anext(frames, None)
    while ahead is not None:
        # A page often needs only the end of the first frame, so do not count that frame.
        batch, size, events = [ahead], 0, 0
        async for ahead in frames:
            if len(batch) >= longest or size >= wanted.size or events >= wanted.events:
                break
            batch.append(ahead)
            size += ahead.frame.size
            events += ahead.frame.events
        else:
            ahead = None
        yield batch, ahead
        longest = 2 if most is not None and longest == FRAMES_PER_PAGE else min(longest * 2, MAX_FRAMES)


def _finished(
    pending: list[LogEvent], following: StoredFrame | None, *, descending: bool
) -> tuple[list[LogEvent], list[LogEvent]]:
    """Split `pending`, sorted by position, into events that no later frame can precede (in order) and the rest."""
    if descending:
        cut = (
            0 if following is None else bisect_left(pending, position_at(following.frame.last_at + 1), key=_BY_POSITION)
        )
        return pending[cut:][::-1], pending[:cut]
    if following is None:
        return pending, []
    cut = bisect_left(pending, position_at(following.frame.first_at), key=_BY_POSITION)
    return pending[:cut], pending[cut:]
