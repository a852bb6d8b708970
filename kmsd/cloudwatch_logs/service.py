"""What the Logs side of a process works with."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime

import msgspec

from kmsd.cloudwatch_logs.data_keys import DataKeys
from kmsd.cloudwatch_logs.evaluation import Evaluation
from kmsd.cloudwatch_logs.frames import FrameIds
from kmsd.cloudwatch_logs.opened_frames import OpenedFrames
from kmsd.cloudwatch_logs.ports import Segments
from kmsd.cloudwatch_logs.work_budget import MAX_PROCESS_BYTES, Budget
from kmsd.event_loop.tasks import cancel_and_wait


class LogsService(msgspec.Struct):
    """Keys and segments. One for each process."""

    keys: DataKeys
    segments: Segments
    frame_ids: FrameIds = msgspec.field(default_factory=FrameIds)
    opened: OpenedFrames = msgspec.field(default_factory=OpenedFrames)
    pack_seconds: float = 0.0
    """What is left of the time that compressing may take."""
    packed_at: float = 0.0
    """When that was worked out; of the monotonic clock."""
    packed_busy: float = 0.0
    """The process's time by then."""
    content: bytearray = msgspec.field(default_factory=bytearray)
    """Where frames are encoded before they are sealed; free at any other time."""
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    """The present instant, for what goes on after the call that began it."""
    tasks: set[asyncio.Task[None]] = msgspec.field(default_factory=set)
    """Queries that are under way."""
    memory: Budget = msgspec.field(default_factory=lambda: Budget(MAX_PROCESS_BYTES))
    """Of all queries and searches together."""
    evaluation: Evaluation = msgspec.field(default_factory=Evaluation)

    async def close(self) -> None:
        """Finish what is being written, give up queries, drop all data keys."""
        await cancel_and_wait(self.tasks)
        self.evaluation.close()
        self.keys.close()
        await self.segments.close()
