"""Which figure a worker keeps where in its share of the memory: one flat row of 64-bit floats, alike in all of them.

Everything that can be a label is known here beforehand: operations, error codes, token calls, reasons of refusals. What
a client makes up is counted under `Unknown` or `other`, so nobody can make the number of series grow; and there is no
place for a key id, an account or a principal.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from hashlib import sha256

import msgspec

from kmsd.errors import ServiceError
from kmsd.ports.histogram import BOUNDS
from kmsd.services import OPERATIONS

HISTOGRAM = len(BOUNDS) + 2
"""Places of a histogram: its classes, and the sum."""
OK, OTHER, UNKNOWN = "OK", "other", "Unknown"
TOKEN_CALLS = (
    *("random", "seal", "open", "derive", "sign"),
    *("generate_key", "generate_signing_key", "generate_wrapping_key", "public_key", "transport_key", "unwrap_key"),
    *("pass_on", "destroy", "list_objects", "attributes", "check", "open_token", "probe_imports", OTHER),
)
CACHES = ("store", "token_handle", "derived_key")
PROBES = ("token", "store", "audit", "logs")
REFUSALS = ("ConnectionLimit", "TlsHandshake")
"""What the transport refuses without an answer; all else it refuses by the name of an error."""
COUNTERS = (
    *("starts", "audit_records", "audit_failures", "token_reconnects"),
    *(f"{kind}:{cache}" for kind in ("hits", "misses") for cache in CACHES),
)
GAUGES = (
    *("heartbeat", "probed", "connections", "sessions_in_use", "sessions_free", "token_waiting", "threads_lost"),
    *("derived_keys", "audit_waiting", "audit_unsigned"),
    *(f"failed:{probe}" for probe in PROBES),
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
"""Service and operation, by what a request's protocol calls its target."""


class Layout(msgspec.Struct, frozen=True):
    """Places of figures, counted in floats."""

    size: int
    fingerprint: float
    """Differs between releases that keep other figures: an upgrade beneath a running daemon must not mix them."""
    requests: Mapping[str, int]
    """By target: the first of `len(CODES)` places."""
    latencies: Mapping[str, int]
    """By target: a histogram."""
    token_calls: Mapping[str, int]
    """By call: a histogram, and behind it the errors."""
    audit_syncs: int
    refusals: Mapping[str, int]
    counters: Mapping[str, int]
    gauges: Mapping[str, int]


def _lay_out() -> Layout:
    at = 1  # the first place is the fingerprint's
    places: list[dict[str, int]] = []
    refusals = (*REFUSALS, *CODES[1:])
    for names, width in (
        (TARGETS, len(CODES)),
        (TARGETS, HISTOGRAM),
        (TOKEN_CALLS, HISTOGRAM + 1),
        (("audit_syncs",), HISTOGRAM),
        (refusals, 1),
        (COUNTERS, 1),
        (GAUGES, 1),
    ):
        places.append({name: at + number * width for number, name in enumerate(names)})
        at += len(names) * width
    requests, latencies, token_calls, audit, refused, counters, gauges = places
    told = repr((CODES, tuple(TARGETS), places)).encode()
    fingerprint = float(int.from_bytes(sha256(told).digest()[:6], "big") + 1)
    return Layout(at, fingerprint, requests, latencies, token_calls, audit["audit_syncs"], refused, counters, gauges)


LAYOUT = _lay_out()
