"""How many calls a principal may make: one bucket for each principal and class of operations, in each worker.

The buckets are kept as instants (the "generic cell rate algorithm"): a call moves its principal's instant on by
1/rate, and is refused while that instant is further ahead than the burst. One look-up and one store a call; a principal
that has not called for the length of a burst is as good as unknown, and is forgotten.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

import msgspec

from kmsd.operations.declaration import KMS, Operation
from kmsd.services import OPERATIONS

MAX_PRINCIPALS = 4096
"""Principals of a class that are remembered before the idle ones are forgotten."""


ROUNDING = 1e-7
"""Seconds; sums of intervals are not exact, and the last call of a burst must not depend on that."""


class RateClass(StrEnum):
    """What is counted together."""

    CRYPTOGRAPHIC = "cryptographic"
    """What seals, opens or generates: AWS has one shared quota for it, too."""
    MANAGEMENT = "management"
    """Everything else of KMS."""
    LOGS = "logs"
    STS = "sts"


def _class_of(operation: Operation[Any, Any]) -> RateClass:
    if operation.service is not KMS:
        return RateClass(operation.service.scope)
    seals = any(access.is_cryptographic for access in operation.access)
    return RateClass.CRYPTOGRAPHIC if seals or operation.name == "GenerateRandom" else RateClass.MANAGEMENT


CLASSES: Mapping[Operation[Any, Any], RateClass] = {operation: _class_of(operation) for operation in OPERATIONS}


class _Bucket(msgspec.Struct):
    """All principals' buckets of one class."""

    interval: float
    """Seconds that one call costs."""
    burst: float
    """Seconds' worth of calls that may come at once."""
    full_at: dict[str, float]
    """By principal: when its bucket is full again."""
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
        """Drop full buckets: they are what a new principal begins with. Twice what is left may come before the next."""
        self.full_at = {name: at for name, at in self.full_at.items() if at > now}
        self.most = max(MAX_PRINCIPALS, 2 * len(self.full_at))


class Throttle:
    """The limits of one worker."""

    def __init__(self, per_second: Mapping[RateClass, float], burst_seconds: float, workers: int) -> None:
        """`per_second` is for the whole daemon, each worker grants its part; a class without a rate is not limited."""
        buckets = {
            name: _Bucket(workers / rate, max(0.0, burst_seconds - workers / rate) + ROUNDING, {})
            for name, rate in per_second.items()
            if rate > 0
        }
        self._buckets = {operation: buckets[name] for operation, name in CLASSES.items() if name in buckets}

    @property
    def limits_anything(self) -> bool:
        """Whether any class has a rate."""
        return bool(self._buckets)

    def allow(self, operation: Operation[Any, Any], principal: str, now: float) -> bool:
        """Whether one more call is within the limit at `now`, in seconds of a monotonic clock; if so, it counts."""
        bucket = self._buckets.get(operation)
        return bucket is None or bucket.take(principal, now)
