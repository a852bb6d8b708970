"""Rate limits: one token bucket for each principal and class of operations, in each worker.

A bucket is one instant (the generic cell rate algorithm). A call moves its principal's instant on by 1/rate, and is
refused while the instant is further ahead than the burst. A call costs one look-up and one store. A principal that
has not called for the length of a burst has a full bucket, like an unknown one, and is evicted.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

import msgspec

from kmsd.operations.declaration import KMS, Kind, Operation
from kmsd.services import OPERATIONS

MAX_PRINCIPALS = 4096
"""Principals of one class that are kept before idle ones are evicted."""


ROUNDING = 1e-7
"""Tolerance in seconds: sums of intervals are not exact, and the last call of a burst must not depend on that."""


class RateClass(StrEnum):
    """Classes of operations that share a limit."""

    CRYPTOGRAPHIC = "cryptographic"
    """Operations that encrypt, decrypt or generate: AWS has one shared quota for them, too."""
    MANAGEMENT = "management"
    """All other KMS operations."""
    LOGS = "logs"
    STS = "sts"
    WEB_IDENTITY = "web_identity"
    """Unsigned requests, by address."""


def _class_of(operation: Operation[Any, Any]) -> RateClass:
    if operation.by_web_identity:
        return RateClass.WEB_IDENTITY
    if operation.service is not KMS:
        return RateClass(operation.service.scope)
    return RateClass.CRYPTOGRAPHIC if operation.kind is Kind.CRYPTOGRAPHIC else RateClass.MANAGEMENT


CLASSES: Mapping[Operation[Any, Any], RateClass] = {operation: _class_of(operation) for operation in OPERATIONS}


class _Bucket(msgspec.Struct):
    """The buckets of all principals, for one class."""

    interval: float
    """Seconds of capacity that one call costs."""
    burst: float
    """Capacity: seconds' worth of calls that may come at once."""
    full_at: dict[str, float]
    """By principal, the time at which its bucket is full again."""
    most: int = MAX_PRINCIPALS

    def take(self, principal: str, now: float) -> bool:
        full_at = self.full_at.get(principal, now)
        if full_at - now > self.burst:
            return False
        self.full_at[principal] = max(now, full_at) + self.interval
        if len(self.full_at) > self.most:
            self._evict(now)
        return True

    def _evict(self, now: float) -> None:
        """Drop full buckets: a new principal starts with one anyway. Evict again at twice the number that is left."""
        self.full_at = {name: at for name, at in self.full_at.items() if at > now}
        self.most = max(MAX_PRINCIPALS, 2 * len(self.full_at))


class Throttle:
    """Rate limits of one worker."""

    def __init__(self, per_second: Mapping[RateClass, float], burst_seconds: float, workers: int) -> None:
        """Grant this worker's share of `per_second`, the daemon's rates; a class without a rate is not limited."""
        buckets = {
            name: _Bucket(workers / rate, max(0.0, burst_seconds - workers / rate) + ROUNDING, {})
            for name, rate in per_second.items()
            if rate > 0
        }
        self.buckets = {operation: buckets[name] for operation, name in CLASSES.items() if name in buckets}
        """By operation; one without a bucket is not limited."""

    @property
    def limits_anything(self) -> bool:
        """True if any class has a rate."""
        return bool(self.buckets)

    def allow(self, operation: Operation[Any, Any], principal: str, now: float) -> bool:
        """True if one more call is within the limit, which then counts. `now`: seconds of a monotonic clock."""
        bucket = self.buckets.get(operation)
        return bucket is None or bucket.take(principal, now)
