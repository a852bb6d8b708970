"""Findings of `kmsd check` on domain keys: present in their tokens, proven to be enforced, and what they wrap."""

from __future__ import annotations

from collections.abc import AsyncIterator

from kmsd.app import Components, key_ceremony
from kmsd.cli.commands.check_findings import FAIL, NOTE, OK, WARN, Finding
from kmsd.cli.commands.domain_key_survey import Found, Presence, survey
from kmsd.config.sections import Config
from kmsd.domain.domain_key import DomainKey, DomainKeyState
from kmsd.domain.material import TokenName
from kmsd.jobs import reconcile
from kmsd.ports import TokenError

ROWS = 10_000
"""Rows of each domain key that one run verifies, which takes some seconds."""
NAMED = 20
"""Changed rows that a finding names."""


async def findings(config: Config, components: Components) -> AsyncIterator[Finding]:
    """Yield one finding for each domain key that is not destroyed. Those of tokens that are away are left out."""
    for found in await survey(components):
        if found.presence is not Presence.AWAY and (finding := _finding(config, found)) is not None:
            yield finding
        if found.presence is Presence.PRESENT and found.materials:
            yield await _rows(components, found)
    for name in sorted(components.tokens.wraps):
        if name in components.tokens:
            yield await _custody(components, name)


async def _rows(components: Components, found: Found) -> Finding:
    """Return whether the rows of wrapped material, or some of them, are as the daemon has written them."""
    number, called = min(found.materials, ROWS), f"under domain key {found.domain_key_id.hex()}"
    try:
        changed = await reconcile.changed_rows(
            components.store, components.tokens[found.token], found.domain_key_id, ROWS
        )
    except TokenError as exc:
        return Finding(FAIL, "token", f"wrapped key materials {called} cannot be verified: {exc}")
    if not changed:
        return Finding(OK, "token", f"{number} of {found.materials} rows {called} are as the daemon has written them")
    named = ", ".join(one.hex() for one in changed[:NAMED])
    text = f"{len(changed)} of {number} rows {called} were changed by something else than the daemon: {named}"
    return Finding(FAIL, "token", text)


async def _custody(components: Components, name: TokenName) -> Finding:
    """Return whether a token can wrap new key material, and of which kinds."""
    domain_key = await (await components.store.read()).current_domain_key(name)
    if domain_key is None:
        text = f"token {name} is to wrap new key material, and has no current domain key: kmsd domain-key create"
        return Finding(FAIL, "token", text)
    try:
        lacking = await components.tokens[name].custody.unwrappable(domain_key)
    except TokenError as exc:
        return Finding(FAIL, "token", f"token {name} cannot wrap new key material: {exc}")
    if not lacking:
        return Finding(OK, "token", f"token {name} wraps new key material of every kind")
    kinds = "; ".join(f"{spec} {usage} ({reason})" for (spec, usage), reason in lacking.items())
    return Finding(NOTE, "token", f"token {name} wraps new key material; it makes objects of {kinds}")


def _finding(config: Config, found: Found) -> Finding | None:
    row, called = found.row, f"domain key {found.domain_key_id.hex()} of token {found.token}"
    if row is None:
        text = f"{called} is not in the database: kmsd domain-key destroy --unknown, if no other database needs it"
        return Finding(WARN, "token", text)
    if row.state is DomainKeyState.DESTROYED:
        text = f"{called} is in the token again, although it was destroyed: was the token restored?"
        return Finding(WARN, "token", text) if found.presence is Presence.PRESENT else None
    if found.presence is Presence.MISSING:
        text = f"{called} ({row.state}) is not in the token: {found.materials} key materials cannot be opened"
        return Finding(FAIL if row.is_needed(found.materials) else WARN, "token", text)
    return _proven(config, row, f"{called}: {row.state}, {found.materials} key materials")


def _proven(config: Config, row: DomainKey, called: str) -> Finding:
    try:
        key_ceremony(config, row.token).prove(row.domain_key_id, row.binding_key)
    except TokenError as exc:
        return Finding(FAIL, "token", f"{called}; not proven: {exc}")
    return Finding(OK, "token", f"{called}; the token enforces what it promises, by trial")
