"""The table of a connection's states."""

from __future__ import annotations

from pathlib import Path

from kmsd.wire.http.connection_state import TRANSITIONS, Event, State, diagram

PAGE = Path(__file__).parents[2] / "docs" / "architecture.md"


def test_every_state_is_left_and_reached() -> None:
    """From each state but the last a connection can end; each state follows from the first; each event occurs."""
    assert set(TRANSITIONS) == set(State)
    assert all(events[Event.LAST] is State.LINGERING for events in TRANSITIONS.values())
    reached, left = set(), [State.OPENING]
    while left:
        state = left.pop()
        if state not in reached:
            reached.add(state)
            left.extend(TRANSITIONS[state].values())
    assert reached == set(State)
    assert {event for events in TRANSITIONS.values() for event in events} == set(Event)


def test_nothing_follows_the_last_event() -> None:
    """A connection that reads no further request takes no other event: none can be answered after a refusal."""
    assert dict(TRANSITIONS[State.LINGERING]) == {Event.LAST: State.LINGERING}


def test_diagram() -> None:
    """docs/architecture.md shows the table."""
    assert "\n".join(diagram()) in PAGE.read_text()
