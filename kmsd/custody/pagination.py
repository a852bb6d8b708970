"""Pagination of lists, with markers that other accounts can neither forge nor use.

A marker is the last item's position, sealed for one operation, the caller's account and the filters. Pagination is by
position (keyset), not by offset: insertions and deletions in the meantime shift nothing.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import msgspec

from kmsd.custody.service_sealer import ServiceSealer
from kmsd.domain import canonical_base64, encryption_context
from kmsd.errors import InvalidMarkerException
from kmsd.ports import NotAuthentic

MAX_PAGE = 100
"""Items on a page of most lists. AWS's model admits a limit of 1000, its text says that a page has at most 100."""
_PURPOSE = "marker"
_Item = TypeVar("_Item")


class Page(msgspec.Struct, Generic[_Item], frozen=True):
    """A page, and the marker of the next one."""

    items: Sequence[_Item]
    next_marker: str | None

    @property
    def truncated(self) -> bool:
        """True if there are more items."""
        return self.next_marker is not None


class Pager(msgspec.Struct, frozen=True):
    """Pagination of one list for one request."""

    sealer: ServiceSealer
    listing: str
    """Operation and account that a marker is bound to, in addition to the filters."""
    filters: dict[str, str]
    limit: int

    @property
    def _subject(self) -> str:
        return encryption_context.canonical({"listing": self.listing, **self.filters}).hex()

    async def start(self, marker: str | None) -> str:
        """Return the position after which the page begins. Raises InvalidMarkerException."""
        if marker is None:
            return ""
        try:
            sealed = canonical_base64.decode(marker, altchars=b"-_")
            return (await self.sealer.decrypt(_PURPOSE, self._subject, sealed)).decode()
        except (ValueError, NotAuthentic) as exc:
            raise InvalidMarkerException("The marker is not valid for this request.") from exc

    async def cut(self, found: Sequence[_Item], position: Callable[[_Item], str]) -> Page[_Item]:
        """Return a page of `found`, which the caller has read with a limit of `limit` + 1."""
        if len(found) <= self.limit:
            return Page(found, None)
        items = found[: self.limit]
        sealed = await self.sealer.encrypt(_PURPOSE, self._subject, position(items[-1]).encode())
        return Page(items, base64.urlsafe_b64encode(sealed).decode())
