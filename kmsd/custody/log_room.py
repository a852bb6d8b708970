"""What the Logs side of a process works with."""

from __future__ import annotations

from dataclasses import dataclass, field

from kmsd.custody.log_keys import LogKeys
from kmsd.domain.log_frame import FrameIds
from kmsd.ports_logs import Segments


@dataclass(slots=True)
class LogRoom:
    """Keys and segments. One for each process."""

    keys: LogKeys
    segments: Segments
    frame_ids: FrameIds = field(default_factory=FrameIds)
    under_way: int = 0
    """Batches that are being taken in at this moment."""

    async def close(self) -> None:
        """Finish what is being written, drop all data keys."""
        self.keys.close()
        await self.segments.close()
