"""Layout of a worker's share of the metrics memory: one flat row of 64-bit floats, the same for all workers.

All label values are known when the daemon starts: operations, error codes, tokens, token calls, reasons of refusals.
Values that a client invents are counted under `Unknown` or `other`, so clients cannot increase the number of series.
There is no place for a key id, an account or a principal.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from hashlib import sha256

import msgspec
from msgspec.structs import replace

from kmsd.errors import ServiceError
from kmsd.ports.histogram import BOUNDS
from kmsd.services import OPERATIONS

HISTOGRAM = len(BOUNDS) + 2
"""Places of a histogram: its buckets, and the sum."""
OK, OTHER, UNKNOWN = "OK", "other", "Unknown"
TOKEN_CALLS = (
    *("random", "seal", "open", "derive", "sign", "mac", "decrypt_rsa", "agree", "encapsulate", "decapsulate"),
    *("generate_key", "generate_mac_key", "generate_key_pair", "generate_wrapping_key", "public_key", "transport_key"),
    *("unwrap_key", "import_key", "pass_on", "destroy", "list_objects", "attributes", "check", "open_token"),
    *(
        "probe_imports",
        "test_keys",
        "prove_domain_key",
        "test_wrapping",
        "generate_wrapped",
        "rewrap",
        "verify_wrapped",
    ),
    OTHER,
)
CACHES = ("store", "token_handle", "derived_key")
PROBES = ("token", "store", "audit", "logs")
REFUSALS = ("ConnectionLimit", "TlsHandshake")
"""Refusals by the transport without a response; all other refusals have an error name."""
COUNTERS = (
    *("starts", "audit_records", "audit_failures", "tampered", "question_retries", "failovers"),
    *(f"{kind}:{cache}" for kind in ("hits", "misses") for cache in CACHES),
)
GAUGES = (
    *("heartbeat", "probed", "connections", "audit_waiting", "audit_unsigned", "tokens_absent"),
    *(f"failed:{probe}" for probe in PROBES),
)
TOKEN_COUNTERS = ("reconnects", "unwraps", "evictions")
TOKEN_GAUGES = (
    *("sessions_in_use", "sessions_free", "waiting", "threads_lost", "derived_keys", "held_keys", "session_objects"),
)


def _codes(kind: type[ServiceError] = ServiceError) -> Iterable[str]:
    for one in kind.__subclasses__():
        yield one.__name__
        yield from _codes(one)


CODES = (OK, *sorted(set(_codes())), OTHER)
TARGETS: Mapping[str, tuple[str, str]] = {
    **{operation.target: (operation.service.scope, operation.name) for operation in OPERATIONS},
    "": (UNKNOWN, UNKNOWN),
}
"""Service and operation by request target."""


class TokenLayout(msgspec.Struct, frozen=True):
    """Index of each figure of one token."""

    calls: Mapping[str, int]
    """Histogram followed by the number of errors, by call."""
    counters: Mapping[str, int]
    gauges: Mapping[str, int]


class Layout(msgspec.Struct, frozen=True):
    """Index of each figure in a share, counted in floats."""

    size: int
    fingerprint: float
    """Identifies the layout. It differs between releases with other figures, and between sets of tokens: their figures
    must not mix."""
    requests: Mapping[str, int]
    """First of `len(CODES)` places, by target."""
    latencies: Mapping[str, int]
    """Histogram, by target."""
    audit_syncs: int
    questions: int
    """Histogram of the questions to a database server."""
    refusals: Mapping[str, int]
    counters: Mapping[str, int]
    gauges: Mapping[str, int]
    tokens: Mapping[str, TokenLayout]

    @property
    def all_gauges(self) -> list[int]:
        """Return the places of all gauges."""
        by_token = [place for token in self.tokens.values() for place in token.gauges.values()]
        return [*self.gauges.values(), *by_token]


class _Places:
    """Assigns places in a share, one after the other."""

    def __init__(self) -> None:
        self.size = 1  # the first place is the fingerprint's

    def take(self, names: Collection[str], width: int = 1) -> dict[str, int]:
        """Return the first of `width` places for each name."""
        taken = {name: self.size + number * width for number, name in enumerate(names)}
        self.size += len(names) * width
        return taken


def layout_of(tokens: Iterable[str]) -> Layout:
    """Return the layout for a daemon with these tokens, in any order."""
    places = _Places()
    requests, latencies = places.take(TARGETS, len(CODES)), places.take(TARGETS, HISTOGRAM)
    audit_syncs, questions = places.take(("audit_syncs", "questions"), HISTOGRAM).values()
    refusals = places.take((*REFUSALS, *CODES[1:]))
    counters, gauges = places.take(COUNTERS), places.take(GAUGES)
    by_token = {
        name: TokenLayout(
            places.take(TOKEN_CALLS, HISTOGRAM + 1), places.take(TOKEN_COUNTERS), places.take(TOKEN_GAUGES)
        )
        for name in sorted(tokens)
    }
    layout = Layout(places.size, 0.0, requests, latencies, audit_syncs, questions, refusals, counters, gauges, by_token)
    description = repr((CODES, layout)).encode()
    return replace(layout, fingerprint=float(int.from_bytes(sha256(description).digest()[:6], "big") + 1))
