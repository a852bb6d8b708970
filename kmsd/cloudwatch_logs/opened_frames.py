"""Frames that were opened a moment ago: whoever reads a stream page by page, or along with others, opens each once.

The rule for their end: events stay in the data key that opened them (`DataKey.opened`), so they leave memory
when it does: after `HOLD_SECONDS`, and as soon as its key is found unusable. Nobody gets at them but
through `DataKeys.decryption_key`, which asks for state and policy of the customer's key every time.
"""

from __future__ import annotations

from weakref import WeakSet

from kmsd.cloudwatch_logs.data_keys import DataKey
from kmsd.cloudwatch_logs.events import LogEvent
from kmsd.cloudwatch_logs.frames import Frame

MAX_BYTES = 67_108_864
"""Of all events that are kept, as `_weight` counts."""
_EVENT_BYTES = 512
"""What an event takes beside its text: objects, and the members around it."""


class OpenedFrames:
    """Those of one process. Belongs to one event loop."""

    def __init__(self) -> None:
        self._keys: WeakSet[DataKey] = WeakSet()

    def get(self, key: DataKey, group_id: bytes, frame: Frame) -> list[LogEvent] | None:
        """The events of a frame, rendered; the head is compared as a whole, as it was authenticated as a whole."""
        return key.opened.get((group_id, frame))

    def keep(self, key: DataKey, group_id: bytes, frame: Frame, events: list[LogEvent]) -> None:
        """Keep them as long as `key` is held. If that is too much, all is let go: what is read now comes again."""
        weight = _weight(frame)
        if self.size + weight > MAX_BYTES:
            for one in self._keys:
                one.opened.clear()
                one.opened_bytes = 0
        if (group_id, frame) not in key.opened and weight <= MAX_BYTES:
            self._keys.add(key)
            key.opened[group_id, frame] = events
            key.opened_bytes += weight

    @property
    def size(self) -> int:
        """Bytes that are kept."""
        return sum(key.opened_bytes for key in self._keys)


def _weight(frame: Frame) -> int:
    """Each text is there twice, once as it is shown."""
    return 2 * frame.size + _EVENT_BYTES * frame.events
