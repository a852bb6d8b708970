"""Events into frames and back: compressed, then sealed under a data key bound to the group's ARN."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from cryptography.exceptions import InvalidTag

from kmsd.cloudwatch_logs import events
from kmsd.cloudwatch_logs import frames as log_frame
from kmsd.cloudwatch_logs.data_keys import DataKey, KeyAssociation
from kmsd.cloudwatch_logs.events import Batch, LogEvent
from kmsd.cloudwatch_logs.frames import Frame, WrappedKey
from kmsd.cloudwatch_logs.groups import LogGroup, LogStream, millis
from kmsd.cloudwatch_logs.ports import SegmentDamaged, StoredFrame
from kmsd.cloudwatch_logs.service import LogsService
from kmsd.ports import Reader

PIECES_A_TURN = 2
"""So many are compressed before other callers have their turn: half a millisecond at the most. A thread would cost
more, in waiting for the interpreter's lock."""
SHARE = 0.02
"""Compressing costs as much as all other work of a batch. It may take this share of the time in which a process has
nothing to do; beyond, batches are stored as they are, sealed all the same: a rush of events costs disk then, and not
the other callers' time."""
MAX_SAVED = 0.02
"""Seconds for it that a process can save up."""


class Sealed(NamedTuple):
    """A frame, ready to be appended."""

    frame: Frame
    content: bytes
    data_key: WrappedKey


def subject_of(group: LogGroup) -> KeyAssociation:
    """What the group's data keys are made for."""
    return KeyAssociation(group.group_id, group.account, group.arn, group.kms_key)


async def seal(
    logs: LogsService,
    reader: Reader,
    group: LogGroup,
    stream: LogStream,
    batch: Batch,
    *,
    now: datetime,
    compress: bool = False,
) -> Sealed:
    """Seal a batch under the key that is associated at this moment. Raises what `DataKeys.encryption_key` does.

    With `compress` it is compressed first whether there is time for it or not.
    """
    data_key = await logs.keys.encryption_key(reader, subject_of(group), batch.size, now)
    packing, packed = await _packed(logs, batch, compress=compress)
    frame = Frame(
        stream.stream_id,
        data_key.wrapped.data_key_id,
        logs.frame_ids.next(int(now.timestamp() * 1_000_000)),
        batch.times[0],
        batch.times[-1],
        millis(now),
        len(batch.times),
        batch.size,
        packing,
    )
    aad = log_frame.associated_data(group.group_id, frame.encode())
    sealed = data_key.cipher.encrypt(log_frame.nonce(frame.frame_id), packed, aad)
    return Sealed(frame, sealed, data_key.wrapped)


async def _packed(logs: LogsService, batch: Batch, *, compress: bool) -> tuple[int, bytes | bytearray]:
    """Encode and perhaps compress. What it returns is good until something is awaited."""
    if not compress and _seconds_to_spend(logs) <= 0:
        events.encode(batch, logs.content)
        return log_frame.PLAIN, logs.content
    content, parts = bytearray(), list[bytes]()
    events.encode(batch, content)
    spent, began = 0.0, time.thread_time()
    for number, part in enumerate(events.deflated(content), 1):
        parts.append(part)
        if number % PIECES_A_TURN == 0:
            spent += time.thread_time() - began
            await asyncio.sleep(0)
            began = time.thread_time()
    if not compress:
        logs.pack_seconds -= spent + time.thread_time() - began
    packed = b"".join(parts)
    return (log_frame.DEFLATE, packed) if len(packed) < len(content) else (log_frame.PLAIN, content)


def _seconds_to_spend(logs: LogsService) -> float:
    """What compressing may take now."""
    now, busy = time.monotonic(), time.process_time()
    idle = (now - logs.packed_at) - (busy - logs.packed_busy)
    logs.pack_seconds = min(logs.pack_seconds + max(idle, 0.0) * SHARE, MAX_SAVED)
    logs.packed_at, logs.packed_busy = now, busy
    return logs.pack_seconds


def open_frames(
    group_id: bytes, frames: Sequence[tuple[StoredFrame, bytes, DataKey]], *, shown: bool = False
) -> list[list[LogEvent]]:
    """The events of each frame; blocking, and most of it without the interpreter's lock. Raises `SegmentDamaged`."""
    found = []
    for stored, sealed, data_key in frames:
        frame = stored.frame
        aad = log_frame.associated_data(group_id, frame.encode())
        try:
            packed = data_key.cipher.decrypt(log_frame.nonce(frame.frame_id), sealed, aad)
        except InvalidTag as exc:
            raise SegmentDamaged(stored.segment, frame.first_at, frame.last_at) from exc
        found.append(events.decode(frame, packed, shown=shown))
    return found
