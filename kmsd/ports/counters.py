"""Counters of the use of the token, for metrics."""

from __future__ import annotations

import msgspec

from kmsd.ports.histogram import LatencyHistogram


class CallCounter(LatencyHistogram):
    """Counters and latencies of one kind of call; the wait for a thread is included."""

    calls: int = 0
    """Calls started, failed ones included."""
    errors: int = 0
    """Calls that raised."""


class TokenCounters(msgspec.Struct, frozen=True):
    """Snapshot of one token's counters."""

    calls: dict[str, CallCounter] = {}
    """Counters by kind of call (`seal`, `open`, `generate_key`)."""
    sessions_in_use: int = 0
    sessions_free: int = 0
    waiting: int = 0
    """Calls that wait for a thread."""
    abandoned: int = 0
    """Threads that hang in the module past their deadline."""
    derived_keys: int = 0
    """Derived keys in memory."""
    derived_hits: int = 0
    derived_misses: int = 0
    handle_hits: int = 0
    handle_misses: int = 0
    epoch: int = 0
    """Initialisations of the module so far; 0 while the token is away."""
    reconnects: int = 0
    pace: dict[str, float] = {}
    """Seconds that a call of each kind took when it was measured at start."""
