"""Aggregated audit records for a flood of unauthenticated requests.

Every refused request is in the trail. Up to the configured rate each has its own record. Beyond that, one record a
second counts them by error code and lists the addresses that most came from. A client without credentials therefore
can neither fill the disk nor slow down honest callers.
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
"""Seconds' worth of single records that an idle process may write at once."""
ADDRESSES_COUNTED = 1000
"""Maximum addresses counted separately within a second; later ones are counted together."""
ADDRESSES_SHOWN = 20
OTHERS = "others"
SEVERAL = "several"
"""Placeholder where the record of one request has a single value and these requests had several."""


class RefusalCounts(msgspec.Struct):
    """Counts of refused requests that have no record of their own."""

    since: datetime
    until: datetime
    codes: Counter[str] = msgspec.field(default_factory=Counter)
    addresses: Counter[str] = msgspec.field(default_factory=Counter)

    def add(self, now: datetime, code: str, address: str) -> None:
        """Count one more request."""
        self.until = now
        self.codes[code] += 1
        known = address in self.addresses or len(self.addresses) < ADDRESSES_COUNTED
        self.addresses[address if known else OTHERS] += 1

    def shown(self) -> dict[str, Any]:
        """Return the counts in the record's form."""
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
    """Token bucket for single records, and the counts of the requests that found it empty."""

    def __init__(self, per_second: float) -> None:
        self._per_second = per_second
        self._limit = per_second * BURST_SECONDS
        self._permits = self._limit
        self._at: float | None = None
        self.tally: RefusalCounts | None = None

    def allow(self, clock: float) -> bool:
        """Take a permit. True if a refusal at `clock` (monotonic, in seconds) is to have its own record."""
        if self._at is not None:
            self._permits = min(self._limit, self._permits + max(0.0, clock - self._at) * self._per_second)
        self._at = clock
        if self._permits < 1:
            return False
        self._permits -= 1
        return True

    def count(self, now: datetime, code: str, source: ClientInfo) -> None:
        """Count a refusal for which `allow` had no permit."""
        if self.tally is None:
            self.tally = RefusalCounts(now, now)
        self.tally.add(now, code, source.address or UNIX_SOCKET)

    def drain(self) -> RefusalCounts | None:
        """Return the counts so far, and start from zero. None: there is nothing to record."""
        tally, self.tally = self.tally, None
        return tally

    def restore(self, tally: RefusalCounts) -> None:
        """Put back counts that could not be recorded; none are lost."""
        if self.tally is not None:
            tally.until = self.tally.until
            tally.codes += self.tally.codes
            tally.addresses += self.tally.addresses
        self.tally = tally


def record_of_refusals(*, arns: ArnScope, tally: RefusalCounts) -> bytes:
    """Return one record of many refusals."""
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
