"""Rows of a query: an event and the fields that the query's commands added."""

from __future__ import annotations

from sys import getsizeof
from typing import Any

import msgspec

from kmsd.cloudwatch_logs.events import LogEvent, position_text
from kmsd.cloudwatch_logs.insights.values import MAX_TEXT_LENGTH, Instant, Value, walk
from kmsd.cloudwatch_logs.work_budget import MAX_EVENT_WORK, reading_work

TIMESTAMP = "@timestamp"
MESSAGE = "@message"
PTR = "@ptr"
_ROW_BYTES = 700
"""Memory of a row in bytes, in addition to its values: objects, and the dict of fields."""
_FIELD_BYTES = 100
_UNREAD = object()
_decode = msgspec.json.Decoder().decode


class Record:
    """Row of a query. Fields are computed only when they are read."""

    __slots__ = ("_event", "_json", "_left", "_log", "_members", "_stream", "fields")

    def __init__(self, event: LogEvent | None = None, stream: str = "", log: str = "") -> None:
        self._event = event
        self._stream = stream
        self._log = log
        self._json: Any = _UNREAD
        self._members: dict[str, Value] = {}
        self._left = MAX_EVENT_WORK
        self.fields: dict[str, Value] = {}
        """Fields added by `fields`, `parse` and `stats`."""

    def get(self, name: str) -> Value:
        """Return a field's value; None if the row does not have it."""
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

    def affords(self, count: int) -> bool:
        """Spend the work of examining `count` characters. False if the budget is used up: the field has no value."""
        self._left -= count
        return self._left >= 0

    def rest(self) -> int:
        """Drop everything that can be recomputed. Returns the bytes that the row takes from now on."""
        self._json, self._members = _UNREAD, {}
        message = 0 if self._event is None else getsizeof(self._event.message)
        return _ROW_BYTES + message + sum(map(weight, self.fields.values()))

    def _member(self, name: str) -> Value:
        """Return a field discovered in a JSON event."""
        if name not in self._members:
            self._members[name] = self._shown(self._find(name))
        return self._members[name]

    def _find(self, name: str) -> object:
        if self._json is _UNREAD:
            self._json = self._read()
        if not isinstance(self._json, dict):
            return None
        direct = self._json.get(name)
        return direct if isinstance(direct, str | int | float | bool) else walk(self._json, name)

    def _read(self) -> object:
        message = "" if self._event is None else self._event.message
        if message.lstrip()[:1] != "{" or not self.affords(reading_work(message)):
            return None
        try:
            return _decode(message)
        except (msgspec.DecodeError, RecursionError):
            return None

    def _shown(self, value: object) -> Value:
        """Return a scalar unchanged, an object or list as JSON."""
        if isinstance(value, str | int | float | bool):
            return value
        if value is None or not self.affords(0):
            return None
        try:
            shown = msgspec.json.encode(value).decode()
        except RecursionError:
            return None
        return shown if len(shown) <= MAX_TEXT_LENGTH and self.affords(len(shown)) else None

    @property
    def position(self) -> int:
        """Return the position of its event; 0 for an aggregated row."""
        return 0 if self._event is None else self._event.position


def weight(value: Value) -> int:
    """Return the bytes that a value takes as a field of a row."""
    return _FIELD_BYTES + (getsizeof(value) if isinstance(value, str) else 0)
