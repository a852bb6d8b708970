"""Wrapping keys: destroy those older than 24 hours, and keep those in demand in stock.

The clock decides at the exact time that a wrapping key is no longer valid (`kmsd.custody.import_parameters`). This job
only destroys it in the token. A kind is in demand while one of its keys is issued and valid, so a user who never
imports has none.
"""

from __future__ import annotations

from collections import Counter
from datetime import datetime

from kmsd.custody import import_parameters, token_objects, wrapped_material
from kmsd.domain.key_import import WrappingKey
from kmsd.domain.material import TokenName
from kmsd.ports import Store, StoreError, TokenError, Tokens
from kmsd.ports.jobs import JobReport

Kind = tuple[TokenName, int]


class WrappingKeyReport(JobReport):
    """Report of one run."""

    destroyed: list[bytes] = []
    """Wrapping keys that expired, or whose kind is no longer in demand."""
    created: list[bytes] = []
    """Wrapping keys added to the stock."""


async def run_once(store: Store, tokens: Tokens, now: datetime, *, stock: int) -> WrappingKeyReport:
    """Run one sweep. Idempotent; one bad key does not stop it."""
    report = WrappingKeyReport()
    reader = await store.read()
    known = [key for key in await reader.wrapping_keys() if not key.token.is_elsewhere]
    is_shared = await wrapped_material.domain_key_for_own(reader, tokens, TokenName.MAIN) is not None
    demanded = {_kind(key) for key in known if key.expires_at is not None and now < key.expires_at}
    ready: Counter[Kind] = Counter()
    for key in known:
        in_stock = key.key_id is None
        is_unfit = key.token == TokenName.MAIN and is_shared is (key.wrapped is None)
        surplus = in_stock and (is_unfit or _kind(key) not in demanded or ready[_kind(key)] >= stock)
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
        # The destruction is now committed; if the token is unavailable, reconcile carries it out.
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
            wrapping_key = await import_parameters.create_wrapping_key(store, tokens, name, bits, now)
        except (StoreError, TokenError) as exc:
            report.failed.append(f"RSA_{bits} in the {name} token: {exc}")
            return
        report.created.append(wrapping_key.object_id)
