"""The public keys of one issuer of web tokens, cached.

A key that is not known is looked for again at once, but not more than once in `PAUSE_SECONDS`: issuers replace their
keys without notice, and a flood of invented key ids must not become a flood on the issuer. While the issuer cannot be
reached, known keys go on for `STALE_SECONDS`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from time import monotonic
from typing import Any

import structlog

from kmsd.errors import IDPCommunicationErrorException

Jwk = Mapping[str, Any]
"""A public key (RFC 7517)."""
Fetch = Callable[[], Awaitable[Sequence[Jwk]]]
"""Return all keys of the issuer. Raises `IssuerUnavailable`."""
REFRESH_SECONDS = 3600.0
STALE_SECONDS = 24 * 3600.0
PAUSE_SECONDS = 10.0

log = structlog.get_logger()


class IssuerUnavailable(Exception):
    """The keys of an issuer cannot be fetched; the text says why."""


class IssuerKeys:
    """Keys of one issuer, for one event loop."""

    def __init__(self, issuer: str, fetch: Fetch, clock: Callable[[], float] = monotonic) -> None:
        """`clock`: seconds that pass, never set."""
        self._issuer = issuer
        self._fetch = fetch
        self._clock = clock
        self._keys: Sequence[Jwk] = ()
        self._fetched_at = float("-inf")
        self._tried_at = float("-inf")
        self._fetching: asyncio.Task[None] | None = None

    async def candidates(self, key_id: str | None) -> Sequence[Jwk]:
        """Return the keys of this id, or all keys if the token names none. Empty: the issuer has no such key.

        Raises `IDPCommunicationErrorException` if the keys are not known, or are too old.
        """
        found = self._known(key_id)
        if self._may_fetch(is_known=bool(found)):
            self._tried_at = self._clock()
            self._fetching = asyncio.create_task(self._refresh(), name="kmsd-issuer-keys")
        if (not found or self._is_stale) and self._fetching is not None:
            # Shielded: one cancelled request does not cancel what others wait for.
            await asyncio.shield(self._fetching)
            found = self._known(key_id)
        if self._is_stale:
            raise IDPCommunicationErrorException(
                "An error occurred while attempting to retrieve the keys of the identity provider.",
                detail=f"the keys of {self._issuer} are not known",
            )
        return found

    @property
    def _is_stale(self) -> bool:
        return self._clock() - self._fetched_at > STALE_SECONDS

    def _known(self, key_id: str | None) -> Sequence[Jwk]:
        return [key for key in self._keys if key_id is None or key.get("kid") == key_id]

    def _may_fetch(self, *, is_known: bool) -> bool:
        now = self._clock()
        if self._fetching is not None or now - self._tried_at < PAUSE_SECONDS:
            return False
        return not is_known or now - self._fetched_at >= REFRESH_SECONDS

    async def _refresh(self) -> None:
        try:
            self._keys = await self._fetch()
            self._fetched_at = self._clock()
        except IssuerUnavailable as exc:
            log.warning("issuer_unavailable", issuer=self._issuer, detail=str(exc))
        finally:
            self._fetching = None
