"""Counters of token use, for metrics."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from msgspec.structs import replace

from kmsd.ports.histogram import LatencyHistogram


class CallCounter(LatencyHistogram):
    """Counters and latencies of one kind of call. Latencies include the wait for a thread."""

    calls: int = 0
    """Calls started, including failed ones."""
    errors: int = 0
    """Calls that raised."""

    def add(self, other: CallCounter) -> None:
        """Add the figures of another counter."""
        self.calls += other.calls
        self.errors += other.errors
        self.seconds += other.seconds
        self.buckets = [one + more for one, more in zip(self.buckets, other.buckets, strict=True)]


class TokenCounters(msgspec.Struct, frozen=True):
    """Snapshot of one token's counters."""

    calls: dict[str, CallCounter] = {}
    """Counters by kind of call (`seal`, `open`, `generate_key`)."""
    sessions_in_use: int = 0
    sessions_free: int = 0
    waiting: int = 0
    """Calls waiting for a thread."""
    abandoned: int = 0
    """Threads blocked in the module past their deadline."""
    derived_keys: int = 0
    """Derived keys in memory."""
    derived_hits: int = 0
    derived_misses: int = 0
    held_keys: int = 0
    """Unwrapped keys in memory."""
    unwraps: int = 0
    """Unwrappings of wrapped material."""
    evictions: int = 0
    """Unwrapped keys that gave way to others."""
    tampered: int = 0
    """Uses of wrapped material whose row was found changed."""
    handle_hits: int = 0
    handle_misses: int = 0
    epoch: int = 0
    """Initialisations of the module so far; 0 while the token is unavailable."""
    reconnects: int = 0
    pace: dict[str, float] = {}
    """Seconds of a call of each kind, measured at start."""
    session_objects: int = 0
    """Objects made since the module was initialised, those of its other tokens and destroyed ones included."""


def merged(found: Sequence[TokenCounters]) -> TokenCounters:
    """Return the counters of several tokens as those of one. Facts of one token (`epoch`, `pace`) are the first's.

    `session_objects` is the largest: tokens may share a module.
    """
    first, *others = found
    calls = {name: replace(call, buckets=list(call.buckets)) for name, call in first.calls.items()}
    for other in others:
        for name, call in other.calls.items():
            calls.setdefault(name, CallCounter()).add(call)
    sums = {name: sum(getattr(one, name) for one in found) for name in _SUMMED}
    return replace(first, calls=calls, session_objects=max(one.session_objects for one in found), **sums)


_SUMMED = (
    *("sessions_in_use", "sessions_free", "waiting", "abandoned", "derived_keys", "derived_hits", "derived_misses"),
    *("held_keys", "unwraps", "evictions", "tampered", "handle_hits", "handle_misses", "reconnects"),
)
