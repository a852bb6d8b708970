"""A flood of unauthenticated requests, counted instead of written down one by one.

Every refused request is in the trail: alone, as long as they come no faster than the configured rate, and beyond
it in one record a second, which says how many there were of each error code, and from which addresses most came.
So nobody without credentials can fill the disk, or make honest callers wait for it.
"""

from __future__ import annotations

from collections import Counter
from datetime import datetime
from typing import Any

import msgspec

from kmsd.audit.record import REFUSALS_EVENT, UNIX_SOCKET, AdditionalEventData, clean, event_of, rfc3339
from kmsd.domain.arn import ArnScope
from kmsd.operations.declaration import KMS, ClientInfo

EVENT_NAME = "RefusedRequests"
BURST_SECONDS = 5
"""An idle process may write this many seconds' worth of single records at once."""
ADDRESSES_COUNTED = 1000
"""Addresses that are told apart within a second; those that come later are counted together."""
ADDRESSES_SHOWN = 20
OTHERS = "others"
SEVERAL = "several"
"""Where a record of one request has one value, and these had more."""


class RefusalCounts(msgspec.Struct):
    """What was refused and not written down one by one."""

    since: datetime
    until: datetime
    codes: Counter[str] = msgspec.field(default_factory=Counter)
    addresses: Counter[str] = msgspec.field(default_factory=Counter)

    def add(self, now: datetime, code: str, address: str) -> None:
        """One more."""
        self.until = now
        self.codes[code] += 1
        known = address in self.addresses or len(self.addresses) < ADDRESSES_COUNTED
        self.addresses[address if known else OTHERS] += 1

    def shown(self) -> dict[str, Any]:
        """As the record has it."""
        top = self.addresses.most_common(ADDRESSES_SHOWN)
        listed = {clean(address): number for address, number in top}
        rest = self.addresses.total() - sum(listed.values())
        if rest:
            listed[OTHERS] = listed.get(OTHERS, 0) + rest
        return {
            "count": self.codes.total(),
            "since": rfc3339(self.since),
            "until": rfc3339(self.until),
            "errorCodes": dict(self.codes.most_common()),
            "sourceIPAddresses": listed,
        }


class RefusalSampler:
    """A bucket of permits for single records, and the tally of what found it empty."""

    def __init__(self, per_second: float) -> None:
        self._per_second = per_second
        self._limit = per_second * BURST_SECONDS
        self._permits = self._limit
        self._at: float | None = None
        self.tally: RefusalCounts | None = None

    def drain(self, clock: float) -> bool:
        """Whether a refusal at this reading of a monotonic clock (in seconds) is to have its own record."""
        if self._at is not None:
            self._permits = min(self._limit, self._permits + max(0.0, clock - self._at) * self._per_second)
        self._at = clock
        if self._permits < 1:
            return False
        self._permits -= 1
        return True

    def count(self, now: datetime, code: str, source: ClientInfo) -> None:
        """Add to the tally what `take` gave no permit for."""
        if self.tally is None:
            self.tally = RefusalCounts(now, now)
        self.tally.add(now, code, source.address or UNIX_SOCKET)

    def hand_over(self) -> RefusalCounts | None:
        """The tally so far; the next begins at nought. None: there is nothing to record."""
        tally, self.tally = self.tally, None
        return tally

    def restore(self, tally: RefusalCounts) -> None:
        """A tally that could not be recorded: nothing of it is lost."""
        if self.tally is not None:
            tally.until = self.tally.until
            tally.codes += self.tally.codes
            tally.addresses += self.tally.addresses
        self.tally = tally


def record_of_refusals(*, arns: ArnScope, tally: RefusalCounts) -> bytes:
    """One record of many refusals."""
    return event_of(
        user_identity={"type": "Unknown"},
        now=tally.until,
        event_source=KMS.event_source,
        event_name=EVENT_NAME,
        event_type=REFUSALS_EVENT,
        region=arns.region,
        address=next(iter(tally.addresses)) if len(tally.addresses) == 1 else SEVERAL,
        user_agent=SEVERAL,
        error_code=next(iter(tally.codes)) if len(tally.codes) == 1 else SEVERAL,
        additional=AdditionalEventData(refused=tally.shown()),
    )
