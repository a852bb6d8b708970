"""Can kinds of bad wrapped key material be told apart by time? The area under the ROC curve for each pair of kinds.

    .venv/bin/python -m tests.bench.import_timing [samples [algorithm ...]]

0.5 means that one time says nothing; the promise is 0.35 to 0.65 with samples of 300, over HTTP, as a client sees it.
At the token's port, in the process, is shown what the decoys leave over, which answering to the beat then hides.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import random
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

from kmsd.custody import import_parameters, imported_material
from kmsd.custody.service_sealer import ServiceSealer
from kmsd.ports import InvalidLength, UnwrapFailed, Wrapped
from tests.support.harness import Harness, harness
from tests.support.key_import import external_key, parameters, raw_encrypt, wrap

SIZE = 256
BOUNDS = (0.35, 0.65)


def nonzero(count: int) -> bytes:
    """Random bytes of which none is zero."""
    return bytes(1 + byte % 255 for byte in os.urandom(count))


def pkcs1_kinds() -> dict[str, Callable[[bytes], bytes]]:
    """Blobs by public key: what RFC 8017 section 7.2.2 lists as wrong, a wrong length, and noise."""
    key = os.urandom(32)
    encodings = {
        "first octet": lambda: b"\1\2" + nonzero(SIZE - 35) + b"\0" + key,
        "block type": lambda: b"\0\1" + nonzero(SIZE - 35) + b"\0" + key,
        "no separator": lambda: b"\0\2" + nonzero(SIZE - 2),
        "short padding": lambda: b"\0\2" + nonzero(5) + b"\0" + nonzero(SIZE - 8),
        "16 bytes": lambda: b"\0\2" + nonzero(SIZE - 19) + b"\0" + key[:16],
        "31 bytes": lambda: b"\0\2" + nonzero(SIZE - 34) + b"\0" + key[:31],
        "empty": lambda: b"\0\2" + nonzero(SIZE - 3) + b"\0",
        "noise": lambda: b"\0" + os.urandom(SIZE - 1),
    }
    return {name: (lambda public, make=make: raw_encrypt(make(), public)) for name, make in encodings.items()}


def mask(seed: bytes, length: int, digest: str) -> bytes:
    """MGF1."""
    size = hashlib.new(digest).digest_size
    blocks = (hashlib.new(digest, seed + i.to_bytes(4, "big")).digest() for i in range(-(-length // size)))
    return b"".join(blocks)[:length]


def oaep(digest: str, *, first: int = 0, label: bytes = b"", filler: int = 0, separator: int = 1) -> bytes:
    """RFC 8017 section 7.1.1, with one thing changed."""
    size = hashlib.new(digest).digest_size
    space = SIZE - 2 * size - 2
    # No octet of the message could be taken for the filler or the separator.
    message = bytes(2 + octet % 254 for octet in os.urandom(32))
    block = hashlib.new(digest, label).digest() + bytes([filler] * (space - 32)) + bytes([separator]) + message
    seed = os.urandom(size)
    hidden = bytes(a ^ b for a, b in zip(block, mask(seed, len(block), digest), strict=True))
    seen = bytes(a ^ b for a, b in zip(seed, mask(hidden, size, digest), strict=True))
    return bytes([first]) + seen + hidden


def oaep_kinds(digest: str) -> dict[str, Callable[[bytes], bytes]]:
    """What RFC 8017 section 7.1.2 step 3g lists as wrong (the first is Manger's oracle), and noise."""
    changes: dict[str, dict[str, Any]] = {
        "first octet": {"first": 1},
        "label hash": {"label": b"x"},
        "filler": {"filler": 2},
        "separator": {"separator": 3},
        "no separator": {"separator": 0},
    }
    kinds: dict[str, Callable[[bytes], bytes]] = {
        name: (lambda public, change=change: raw_encrypt(oaep(digest, **change), public))
        for name, change in changes.items()
    }
    return {**kinds, "noise": lambda public: raw_encrypt(b"\0" + os.urandom(SIZE - 1), public)}


def hybrid_kinds(digest: str, algorithm: str) -> dict[str, Callable[[bytes], bytes]]:
    """The same of the AES key's wrapping, and a changed second part."""

    def changed(public: bytes) -> bytes:
        blob = wrap(os.urandom(32), algorithm, public)
        return blob[:-1] + bytes([blob[-1] ^ 1])

    kinds = {
        name: (lambda public, make=make: make(public) + os.urandom(40)) for name, make in oaep_kinds(digest).items()
    }
    return {**kinds, "second part": changed}


KINDS = {
    "RSAES_PKCS1_V1_5": pkcs1_kinds(),
    "RSAES_OAEP_SHA_1": oaep_kinds("sha1"),
    "RSAES_OAEP_SHA_256": oaep_kinds("sha256"),
    "RSA_AES_KEY_WRAP_SHA_1": hybrid_kinds("sha1", "RSA_AES_KEY_WRAP_SHA_1"),
    "RSA_AES_KEY_WRAP_SHA_256": hybrid_kinds("sha256", "RSA_AES_KEY_WRAP_SHA_256"),
}


def area(left: list[float], right: list[float]) -> float:
    """Under the ROC curve: how often a time of `right` is longer than one of `left`."""
    ranked = sorted([(time, 0) for time in left] + [(time, 1) for time in right])
    wins, seen = 0, 0
    for _, side in ranked:
        if side:
            wins += seen
        else:
            seen += 1
    return wins / (len(left) * len(right))


def report(where: str, algorithm: str, times: dict[str, list[float]]) -> bool:
    """Print the worst pair; whether it is within bounds."""
    pairs = [(area(times[a], times[b]), a, b) for a, b in itertools.combinations(times, 2)]
    worst = max(pairs, key=lambda pair: abs(pair[0] - 0.5))
    middle = {name: sorted(values)[len(values) // 2] * 1e3 for name, values in times.items()}
    fine = BOUNDS[0] <= worst[0] <= BOUNDS[1]
    medians = ", ".join(f"{name} {value:.3f}" for name, value in middle.items())
    verdict = "info" if where == "port" else "ok  " if fine else "FAIL"
    print(f"{verdict} {where:5} {algorithm:25} worst area {worst[0]:.3f} ({worst[1]} / {worst[2]})")
    print(f"     medians in ms: {medians}")
    return fine


async def at_the_port(found: Harness, key_id: str, given: Any, blob: bytes) -> float:
    """One refusal, from the wrapped blob to the error."""
    tokens, box = found.components.pipeline.dependencies.tokens, await service_box(found)
    claim = await import_parameters.open_token(box, given.answer["ImportToken"], key_id, found.clock.now())
    wrapping_key = await import_parameters.wrapping_key_of(await found.components.store.read(), claim)
    wrapped = Wrapped(blob, claim.algorithm, wrapping_key.object_id)
    begin = perf_counter()
    try:
        forwarded = await imported_material._forwarded(tokens, wrapping_key, wrapped)
        await found.components.token.unwrap_key(forwarded, b"a mark of more than sixteen bytes")
    except (UnwrapFailed, InvalidLength):
        return perf_counter() - begin
    raise AssertionError("a bad blob was unwrapped")


async def service_box(found: Harness) -> Any:
    """The daemon's."""
    return await ServiceSealer.of(await found.components.store.read(), found.components.token)


def over_http(kms: Any, given: Any, blob: bytes) -> float:
    """One refusal, as a client sees it."""
    members = given.members_of(blob)
    begin = perf_counter()
    try:
        kms.import_key_material(**members)
    except kms.exceptions.InvalidCiphertextException:
        return perf_counter() - begin
    raise AssertionError("a bad blob was imported")


def sample(
    kinds: dict[str, Callable[[bytes], bytes]], public: bytes, count: int, measure: Callable[[bytes], float]
) -> dict[str, list[float]]:
    """`count` times of each kind, in random order."""
    order = [name for name in kinds for _ in range(count)]
    random.shuffle(order)
    for make in kinds.values():
        measure(make(public))
    times: dict[str, list[float]] = {name: [] for name in kinds}
    for name in order:
        times[name].append(measure(kinds[name](public)))
    return times


def main() -> int:
    """Exit status 1 if some pair is out of bounds."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 300
    # The count of failures is not what is measured here.
    import_parameters.MAX_FAILURES = 10**9  # type: ignore[misc]
    fine = True
    with tempfile.TemporaryDirectory() as folder, harness(Path(folder), import_token=True) as found:
        kms = found.client()
        for algorithm in sys.argv[2:] or KINDS:
            kinds = KINDS[algorithm]
            key_id = external_key(kms)
            given = parameters(kms, key_id, algorithm)
            port = partial(at_the_port, found, key_id, given)
            report(
                "port", algorithm, sample(kinds, given.public_key, count, lambda blob, port=port: found.run(port(blob)))
            )
            http = partial(over_http, kms, given)
            fine &= report("HTTP", algorithm, sample(kinds, given.public_key, count, http))
    return 0 if fine else 1


if __name__ == "__main__":
    raise SystemExit(main())
