"""Counters of one token, for metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from kmsd.ports.counters import TokenCounters

if TYPE_CHECKING:
    from kmsd.adapters.pkcs11.circuit_breaker import TokenLink
    from kmsd.adapters.pkcs11.dispatcher import CallDispatcher
    from kmsd.adapters.pkcs11.login import Login


def snapshot(calls: CallDispatcher, link: TokenLink, objects_made: int) -> TokenCounters:
    """Return the counters as they are now. Those of a login are 0 while there is none."""
    found = TokenCounters(
        calls={name: replace(one, buckets=list(one.buckets)) for name, one in calls.counters.items()},
        waiting=calls.workers.waiting,
        abandoned=calls.workers.abandoned,
        reconnects=link.reconnects,
        pace=calls.inline_policy.snapshot(),
        session_objects=objects_made,
    )
    return found if link.login is None else _with_login(found, link.login)


def _with_login(found: TokenCounters, login: Login) -> TokenCounters:
    in_use, free = login.connection.sessions
    return replace(
        found,
        sessions_in_use=in_use,
        sessions_free=free,
        held_keys=len(login.wrapped),
        unwraps=login.wrapped.misses,
        evictions=login.wrapped.evictions,
        tampered=login.wrapped.tampered,
        derived_keys=len(login.derived),
        derived_hits=login.derived.hits,
        derived_misses=login.derived.misses,
        handle_hits=login.objects.hits,
        handle_misses=login.objects.misses,
        epoch=login.number,
    )
