"""Copying of log events and query results from one place to another, sealed as they are."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime
from hashlib import sha256

from kmsd.cloudwatch_logs.frames import Frame
from kmsd.cloudwatch_logs.groups import LogGroup
from kmsd.cloudwatch_logs.ports import FrameQuery, LogReader, SegmentDamaged, Segments, SegmentsUnavailable, StoredFrame

AT_ONCE = 64
"""Frames that are read and appended together: at most 64 MiB."""
EVERYTHING = FrameQuery()
Digests = dict[bytes, tuple[Frame, bytes]]
"""Header and hash of frames, by frame id."""


async def copy(reader: LogReader, source: Segments, target: Segments, now: datetime) -> int:
    """Copy the events of all groups, and the results of queries, and compare them. Return the number of frames.

    Events of groups that the daemon maintains are left out: it copies the audit trail into them again. Raises
    `SegmentsUnavailable`, also if the copy differs, `SegmentDamaged`.
    """
    count = 0
    for group in await reader.all_log_groups():
        if not group.reserved:
            count += await _copy_group(group, source, target)
    for query_id in await reader.old_log_queries(now, _ALL):
        try:
            content = await source.get_result(query_id)
        except SegmentDamaged:
            continue  # it has no result: it failed, was stopped, or had not ended
        await target.put_result(query_id, content)
    return count


_ALL = 2**31
"""Limit that is none."""


async def _copy_group(group: LogGroup, source: Segments, target: Segments) -> int:
    copied: Digests = {}
    batch: list[StoredFrame] = []
    async for stored in source.find(group.group_id, EVERYTHING):
        batch.append(stored)
        if len(batch) == AT_ONCE:
            copied |= await _append(group, source, target, batch)
            batch = []
    copied |= await _append(group, source, target, batch)
    # What was added to the source meanwhile is not asked for.
    if copied != await _digests(group.group_id, target):
        raise SegmentsUnavailable(f"the events of the log group {group.name} differ after they were copied")
    return len(copied)


async def _append(group: LogGroup, source: Segments, target: Segments, batch: Sequence[StoredFrame]) -> Digests:
    if not batch:
        return {}
    contents = await source.read(group.group_id, batch)
    keys = await source.data_keys(group.group_id, batch)
    pairs = list(zip((stored.frame for stored in batch), contents, strict=True))
    await asyncio.gather(
        *(
            target.append(
                group.group_id, frame, sealed, keys[frame.data_key_id], expires_at=group.expires_at(frame.last_at)
            )
            for frame, sealed in pairs
        )
    )
    return {frame.frame_id: (frame, sha256(sealed).digest()) for frame, sealed in pairs}


async def _digests(group_id: bytes, segments: Segments) -> Digests:
    found: Digests = {}
    async for stored in segments.find(group_id, EVERYTHING):
        (sealed,) = await segments.read(group_id, [stored])
        found[stored.frame.frame_id] = (stored.frame, sha256(sealed).digest())
    return found
