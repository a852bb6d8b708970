"""Wrapping keys: those whose 24 hours are over are destroyed, and those in demand are kept in stock.

That they are no longer good is decided by the clock, at the instant (`kmsd.custody.import_parameters`); this only ends
them in the token. A kind is in demand while a key of it is given out and good: who never imports has none lying about.
"""

from __future__ import annotations

from collections import Counter
from datetime import datetime

from kmsd.custody import import_parameters, token_objects
from kmsd.custody.import_parameters import Tokens
from kmsd.domain.key_import import TokenName, WrappingKey
from kmsd.ports import Store, StoreError, TokenError
from kmsd.ports.jobs import JobReport

Kind = tuple[TokenName, int]


class WrappingKeyReport(JobReport):
    """What one run did."""

    destroyed: list[bytes] = []
    """Wrapping keys that expired, or that nobody asks for any more."""
    created: list[bytes] = []
    """New ones in stock."""


async def run_once(store: Store, tokens: Tokens, now: datetime, *, stock: int) -> WrappingKeyReport:
    """One sweep. Idempotent; one bad key does not stop it."""
    report = WrappingKeyReport()
    known = await (await store.read()).wrapping_keys()
    demanded = {_kind(key) for key in known if key.expires_at is not None and now < key.expires_at}
    ready: Counter[Kind] = Counter()
    for key in known:
        in_stock = key.key_id is None
        surplus = in_stock and (_kind(key) not in demanded or ready[_kind(key)] >= stock)
        if surplus or (key.expires_at is not None and key.expires_at <= now):
            await _destroy(store, tokens, key, report)
        elif in_stock:
            ready[_kind(key)] += 1
    for kind in sorted(demanded):
        if kind[0] in tokens:
            await _create(store, tokens, kind, now, report, count=stock - ready[kind])
    return report


def _kind(key: WrappingKey) -> Kind:
    return key.token, key.bits


async def _destroy(store: Store, tokens: Tokens, key: WrappingKey, report: WrappingKeyReport) -> None:
    try:
        async with store.write() as transaction:
            await import_parameters.mark_destroying(transaction, key.object_id)
        # From here on it is certain; where the token is away, reconcile carries it out.
        if key.token in tokens:
            await token_objects.destroy(store, tokens[key.token], key.object_id)
    except (StoreError, TokenError) as exc:
        report.failed.append(f"{key.object_id.hex()}: {exc}")
    else:
        report.destroyed.append(key.object_id)


async def _create(
    store: Store, tokens: Tokens, kind: Kind, now: datetime, report: WrappingKeyReport, *, count: int
) -> None:
    name, bits = kind
    for _ in range(count):
        try:
            made = await import_parameters.create_wrapping_key(store, tokens, name, bits, now)
        except (StoreError, TokenError) as exc:
            report.failed.append(f"RSA_{bits} in the {name.value} token: {exc}")
            return
        report.created.append(made.object_id)
