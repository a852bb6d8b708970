"""Lists in pages: markers that continue exactly where a page ended, and that nobody else can make or use.

A marker is the last item's position, sealed for one operation, caller's account and set of filters. Pages
are cut by position (keyset), not by number: what is inserted or deleted meanwhile shifts nothing.
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
"""Most lists: the shape admits a limit of 1000, the text says that a page holds at most 100."""
_PURPOSE = "marker"
_Item = TypeVar("_Item")


class Page(msgspec.Struct, Generic[_Item], frozen=True):
    """A page, and how to go on."""

    items: Sequence[_Item]
    next_marker: str | None

    @property
    def truncated(self) -> bool:
        """Whether there is more."""
        return self.next_marker is not None


class Pager(msgspec.Struct, frozen=True):
    """Pages of one list, as one request asks for it."""

    sealer: ServiceSealer
    listing: str
    """What a marker is bound to beside the filters: operation and account."""
    filters: dict[str, str]
    limit: int

    @property
    def _subject(self) -> str:
        return encryption_context.canonical({"listing": self.listing, **self.filters}).hex()

    async def start(self, marker: str | None) -> str:
        """The position after which the page begins. Raises InvalidMarkerException."""
        if marker is None:
            return ""
        try:
            sealed = canonical_base64.decode(marker, altchars=b"-_")
            return (await self.sealer.decrypt(_PURPOSE, self._subject, sealed)).decode()
        except (ValueError, NotAuthentic) as exc:
            raise InvalidMarkerException("The marker is not valid for this request.") from exc

    async def cut(self, found: Sequence[_Item], position: Callable[[_Item], str]) -> Page[_Item]:
        """A page of `found`, of which one more than `limit` was asked for."""
        if len(found) <= self.limit:
            return Page(found, None)
        items = found[: self.limit]
        sealed = await self.sealer.encrypt(_PURPOSE, self._subject, position(items[-1]).encode())
        return Page(items, base64.urlsafe_b64encode(sealed).decode())
