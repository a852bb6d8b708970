"""Counters of the use of tokens and of the store, for metrics."""

from __future__ import annotations

import msgspec

from kmsd.ports.histogram import LatencyHistogram


class CallCounter(LatencyHistogram):
    """Counters and latencies of one kind of call. Latencies include the wait for a thread."""

    calls: int = 0
    """Calls started, including failed ones."""
    errors: int = 0
    """Calls that raised."""


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


class StoreCounters(msgspec.Struct):
    """Counters of one process' use of a database server; all are 0 without a server."""

    questions: LatencyHistogram = msgspec.field(default_factory=LatencyHistogram)
    """Answered questions that prove freshness, the time for connecting included."""
    question_retries: int = 0
    """Questions that failed on an old connection, and were asked once more on a new one."""
    failovers: int = 0
    """Connections to a server that was promoted since the one before."""
