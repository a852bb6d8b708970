"""Rewrapping: material under retiring domain keys gets under the current one of its token.

It can be interrupted at any time: what is left is what still names a retiring domain key. Each batch is one transaction
that replaces rows only if they are still as they were read, so a key that is deleted meanwhile stays deleted. Calls go
on: an unwrapped key stays valid, and both domain keys unwrap.
"""

from __future__ import annotations

from kmsd.domain.domain_key import DomainKey, DomainKeyState
from kmsd.ports import Clock, Store, StoreConflict, StoreError, TamperedMaterial, TokenError, Tokens
from kmsd.ports.jobs import JobReport

BATCH = 100
"""Materials of one transaction, which locks the database for some 4 ms."""
BATCHES = 100
"""Batches of one run. The scheduler runs every 15 s: 100,000 materials take about 150 s, with 5 % of a processor."""


class RewrapReport(JobReport):
    """Report of one run."""

    rewrapped: list[str] = []
    """Number of materials, and their domain keys."""
    tampered: list[bytes] = []
    """Materials whose row was changed by something else than the daemon. They stay as they are. Raises an alarm."""


async def run_once(store: Store, tokens: Tokens, clock: Clock, *, batches: int = BATCHES) -> RewrapReport:
    """Rewrap material of retiring domain keys, at most `batches` batches of each. Idempotent."""
    report = RewrapReport()
    reader = await store.read()
    counts = await reader.wrapped_counts()
    for old in await reader.domain_keys():
        if old.state is not DomainKeyState.RETIRING or not counts.get(old.domain_key_id) or old.token not in tokens:
            continue
        new = await reader.current_domain_key(old.token)
        try:
            if new is not None:
                await _rewrap(store, tokens, old, new, clock=clock, batches=batches, report=report)
        except (StoreError, TokenError) as exc:
            report.failed.append(f"domain key {old.domain_key_id.hex()}: {exc}")
    return report


async def _rewrap(
    store: Store,
    tokens: Tokens,
    old: DomainKey,
    new: DomainKey,
    *,
    clock: Clock,
    batches: int,
    report: RewrapReport,
) -> None:
    after, done = b"", 0
    for _ in range(batches):
        batch = await (await store.read()).wrapped_under(old.domain_key_id, after, BATCH)
        if not batch:
            break
        after = batch[-1].material_id
        made = await tokens[old.token].custody.rewrap(batch, new)
        intact = [(was, one) for was, one in zip(batch, made, strict=True) if not isinstance(one, TamperedMaterial)]
        report.tampered += [
            was.material_id for was, one in zip(batch, made, strict=True) if isinstance(one, TamperedMaterial)
        ]
        try:
            async with store.write() as transaction:
                # Not before this transaction: a backup that began earlier does not have what it moves.
                now = clock.now()
                for was, one in intact:
                    await transaction.replace_wrapped(was, one, now)
        except StoreConflict:
            continue  # one of them was deleted or changed meanwhile: the next run comes to the others
        done += len(intact)
    if done:
        report.rewrapped.append(f"{done} of {old.domain_key_id.hex()} to {new.domain_key_id.hex()}")
