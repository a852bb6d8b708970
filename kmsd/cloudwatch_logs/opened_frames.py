"""Cache of recently decrypted frames: a client that reads page by page, and parallel readers, decrypt each frame once.

Lifetime: the events are kept in the data key that opened them (`DataKey.opened`) and leave memory with it: after
`HOLD_SECONDS`, or as soon as its key is found unusable. The only way to them is `DataKeys.decryption_key`, which
checks state and policy of the customer's key every time.
"""

from __future__ import annotations

from weakref import WeakSet

from kmsd.cloudwatch_logs.data_keys import DataKey
from kmsd.cloudwatch_logs.events import LogEvent
from kmsd.cloudwatch_logs.frames import Frame

MAX_BYTES = 67_108_864
"""Limit on the bytes of all cached events, as `_weight` counts them."""
_EVENT_BYTES = 512
"""Memory of an event in bytes in addition to its text: objects, and the JSON members around it."""


class OpenedFrames:
    """Decrypted frames of one process. Must be used from one event loop."""

    def __init__(self) -> None:
        self._keys: WeakSet[DataKey] = WeakSet()

    def get(self, key: DataKey, group_id: bytes, frame: Frame) -> list[LogEvent] | None:
        """Return the events of a frame, rendered. The whole header must match, as all of it was authenticated."""
        return key.opened.get((group_id, frame))

    def keep(self, key: DataKey, group_id: bytes, frame: Frame, events: list[LogEvent]) -> None:
        """Keep events as long as `key` is cached. On overflow, drop everything: what is in use is soon cached again."""
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
        """Return the number of cached bytes."""
        return sum(key.opened_bytes for key in self._keys)


def _weight(frame: Frame) -> int:
    """Return the memory of a frame: each text is held twice, once as it is shown."""
    return 2 * frame.size + _EVENT_BYTES * frame.events
