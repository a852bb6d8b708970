"""States of a connection, and the events that change them."""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


class State(IntEnum):
    """State of a connection."""

    OPENING = 0
    """Waits for a request, or has a part of its head. Every connection starts here."""
    BODY = 1
    """Has a complete head and a part of the body."""
    BUSY = 2
    """Its requests are being answered."""
    IDLE = 3
    """Waits for the next request."""
    LINGERING = 4
    """The last answer is sent, or queued; input is discarded until the client closes or time is up."""


class Event(IntEnum):
    """Event that can change the state of a connection."""

    FIRST_BYTES = 0
    """A part of a head came."""
    HEAD = 1
    """A head is complete, its body is not."""
    REQUEST = 2
    """A request is complete."""
    ANSWERED = 3
    """All requests are answered."""
    ANSWERED_IN_HEAD = 4
    """All requests are answered, and a part of the next head is here."""
    ANSWERED_IN_BODY = 5
    """All requests are answered, and a part of the next body is here."""
    LAST = 6
    """No further request is read: one was refused, or the connection closes."""


_S, _E = State, Event

TRANSITIONS: Mapping[State, Mapping[Event, State]] = {
    _S.OPENING: {_E.HEAD: _S.BODY, _E.REQUEST: _S.BUSY, _E.LAST: _S.LINGERING},
    _S.BODY: {_E.REQUEST: _S.BUSY, _E.LAST: _S.LINGERING},
    _S.BUSY: {
        _E.ANSWERED: _S.IDLE,
        _E.ANSWERED_IN_HEAD: _S.OPENING,
        _E.ANSWERED_IN_BODY: _S.BODY,
        _E.LAST: _S.LINGERING,
    },
    _S.IDLE: {_E.FIRST_BYTES: _S.OPENING, _E.HEAD: _S.BODY, _E.REQUEST: _S.BUSY, _E.LAST: _S.LINGERING},
    _S.LINGERING: {_E.LAST: _S.LINGERING},
}
"""`TRANSITIONS[state][event]` is the next state. A missing entry is a fault of the daemon: the connection is closed."""


def diagram() -> Iterator[str]:
    """Return the lines of the table as a Mermaid state diagram, for docs/architecture.md."""
    yield "stateDiagram-v2"
    yield f"    [*] --> {State.OPENING.name}"
    for state, events in TRANSITIONS.items():
        for event, after in events.items():
            if after is not state:
                yield f"    {state.name} --> {after.name}: {event.name}"
    yield f"    {State.LINGERING.name} --> [*]"
