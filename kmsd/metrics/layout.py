"""Layout of a worker's share of the metrics memory: one flat row of 64-bit floats, the same for all workers.

All label values are known in advance: operations, error codes, token calls, reasons of refusals. Values that a client
invents are counted under `Unknown` or `other`, so clients cannot increase the number of series. There is no place for a
key id, an account or a principal.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from hashlib import sha256

import msgspec

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
    *("starts", "audit_records", "audit_failures", "token_reconnects", "unwraps", "evictions", "tampered"),
    *(f"{kind}:{cache}" for kind in ("hits", "misses") for cache in CACHES),
)
GAUGES = (
    *("heartbeat", "probed", "connections", "sessions_in_use", "sessions_free", "token_waiting", "threads_lost"),
    *("derived_keys", "held_keys", "session_objects", "audit_waiting", "audit_unsigned", "tokens_absent"),
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
"""Service and operation by request target."""


class Layout(msgspec.Struct, frozen=True):
    """Index of each figure in a share, counted in floats."""

    size: int
    fingerprint: float
    """Identifies the layout. It differs between releases with other figures, which must not mix during an upgrade."""
    requests: Mapping[str, int]
    """First of `len(CODES)` places, by target."""
    latencies: Mapping[str, int]
    """Histogram, by target."""
    token_calls: Mapping[str, int]
    """Histogram followed by the number of errors, by call."""
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
    description = repr((CODES, tuple(TARGETS), places)).encode()
    fingerprint = float(int.from_bytes(sha256(description).digest()[:6], "big") + 1)
    return Layout(at, fingerprint, requests, latencies, token_calls, audit["audit_syncs"], refused, counters, gauges)


LAYOUT = _lay_out()
