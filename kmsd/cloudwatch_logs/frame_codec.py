"""Encoding of events into frames and back: compressed, then encrypted under a data key bound to the group's ARN."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from cryptography.exceptions import InvalidTag

from kmsd.cloudwatch_logs import events
from kmsd.cloudwatch_logs import frames as log_frame
from kmsd.cloudwatch_logs.data_keys import DataKey
from kmsd.cloudwatch_logs.events import Batch, LogEvent
from kmsd.cloudwatch_logs.frames import Frame, WrappedKey
from kmsd.cloudwatch_logs.groups import LogGroup, LogStream, millis
from kmsd.cloudwatch_logs.ports import SegmentDamaged, StoredFrame
from kmsd.cloudwatch_logs.service import LogsService
from kmsd.cloudwatch_logs.service_key_access import KeyAssociation
from kmsd.ports import Reader

PIECES_A_TURN = 2
"""Pieces compressed before other calls get a turn: at most half a millisecond. A thread would cost more, waiting for
the GIL."""


class Sealed(NamedTuple):
    """Encrypted frame, ready to be appended."""

    frame: Frame
    content: bytes
    data_key: WrappedKey


def subject_of(group: LogGroup) -> KeyAssociation:
    """Return the owner of the group's data keys."""
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
    """Encrypt a batch under the key that is associated now. Raises the same errors as `DataKeys.encryption_key`.

    With `compress`, compress it even if `logs.compress` is off.
    """
    data_key = await logs.keys.encryption_key(reader, subject_of(group), batch.size, now)
    packing, packed = await _packed(logs, batch, compress=compress or logs.compress)
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
    """Encode and perhaps compress a batch. The result is valid only until the next await."""
    if not compress:
        events.encode(batch, logs.content)
        return log_frame.PLAIN, logs.content
    content, parts = bytearray(), list[bytes]()
    events.encode(batch, content)
    for number, part in enumerate(events.deflated(content), 1):
        parts.append(part)
        if number % PIECES_A_TURN == 0:
            await asyncio.sleep(0)
    packed = b"".join(parts)
    return (log_frame.DEFLATE, packed) if len(packed) < len(content) else (log_frame.PLAIN, content)


def open_frames(
    group_id: bytes, frames: Sequence[tuple[StoredFrame, bytes, DataKey]], *, shown: bool = False
) -> list[list[LogEvent]]:
    """Return the events of each frame. Blocks, mostly without the GIL. Raises `SegmentDamaged`."""
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
