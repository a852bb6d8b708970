"""State of the logs service in one process."""

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
    """Data keys, segments and shared budgets. One instance per process."""

    keys: DataKeys
    segments: Segments
    frame_ids: FrameIds = msgspec.field(default_factory=FrameIds)
    opened: OpenedFrames = msgspec.field(default_factory=OpenedFrames)
    compress: bool = False
    """True if batches of clients are compressed; the copy of the audit trail always is."""
    content: bytearray = msgspec.field(default_factory=bytearray)
    """Scratch buffer in which frames are encoded before they are encrypted; free at any other time."""
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    """Current time, for work that continues after the call that started it."""
    tasks: set[asyncio.Task[None]] = msgspec.field(default_factory=set)
    """Running queries."""
    memory: Budget = msgspec.field(default_factory=lambda: Budget(MAX_PROCESS_BYTES))
    """Memory budget shared by all queries and searches."""
    evaluation: Evaluation = msgspec.field(default_factory=Evaluation)

    async def close(self) -> None:
        """Cancel running queries, drop all data keys and close the segments."""
        await cancel_and_wait(self.tasks)
        self.evaluation.close()
        self.keys.close()
        await self.segments.close()
