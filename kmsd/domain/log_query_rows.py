"""Rows of a query: an event, and what the query's commands have added to it."""

from __future__ import annotations

from typing import Any

import msgspec

from kmsd.domain.log_event import Event, position_text
from kmsd.domain.log_query_values import Instant, Value, walk

TIMESTAMP = "@timestamp"
MESSAGE = "@message"
PTR = "@ptr"
_UNREAD = object()
_decode = msgspec.json.Decoder().decode


class Row:
    """A row; what is not asked for is not worked out."""

    __slots__ = ("_event", "_json", "_log", "_stream", "fields")

    def __init__(self, event: Event | None = None, stream: str = "", log: str = "") -> None:
        self._event = event
        self._stream = stream
        self._log = log
        self._json: Any = _UNREAD
        self.fields: dict[str, Value] = {}
        """What `fields`, `parse` and `stats` have made."""

    def get(self, name: str) -> Value:
        """A field; None: it is not there."""
        if name in self.fields:
            return self.fields[name]
        event = self._event
        if event is None:
            return None
        match name:
            case "@timestamp":
                return Instant(event.timestamp)
            case "@message":
                return event.message
            case "@ingestionTime":
                return Instant(event.ingested_at)
            case "@logStream":
                return self._stream
            case "@log":
                return self._log
            case "@ptr":
                return position_text(event.position)
            case _:
                return None if name.startswith("@") else self._member(name)

    def _member(self, name: str) -> Value:
        """A field that was discovered in a JSON event."""
        if self._json is _UNREAD:
            message = "" if self._event is None else self._event.message
            self._json = None
            if message.lstrip()[:1] == "{":
                try:
                    self._json = _decode(message)
                except (msgspec.DecodeError, RecursionError):
                    self._json = None
        if not isinstance(self._json, dict):
            return None
        direct = self._json.get(name)
        return direct if isinstance(direct, str | int | float | bool) else walk(self._json, name)

    @property
    def position(self) -> int:
        """Of its event; 0: it stands for several."""
        return 0 if self._event is None else self._event.position
