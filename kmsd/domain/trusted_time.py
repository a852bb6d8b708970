"""What is believed of the time of day: a clock that was set is told from time that has passed.

Beside the wall clock there is the uptime of the host, which nobody can set. The books keep one *reading* of both, and
an instant that is trusted: what the wall clock said when it was last believed, plus the uptime since. A wall clock that
runs ahead of that is believed for a bounded amount, and beyond it not until the operator confirms. One that falls
behind is not believed at all: time goes on from the trusted instant.
"""

from __future__ import annotations

from datetime import datetime, timedelta

import msgspec

MAX_SKEW = timedelta(hours=1)
"""By how much the wall clock may be set forward in all while the host runs."""
MAX_SKEW_AFTER_BOOT = timedelta(days=1)
"""How long the host may have been off; while it is, nothing but the wall clock tells how long."""
MARGIN_BEHIND = timedelta(minutes=1)
"""Time services step the clock back by less than this without anybody being told."""


class Uptime(msgspec.Struct, frozen=True):
    """How long the host has been running, by a clock that counts suspension too and cannot be set."""

    boot_id: str
    """Differs from one start of the host to the next; empty: the process cannot know."""
    seconds: float


class ClockSample(msgspec.Struct, frozen=True):
    """What the books remember."""

    trusted_at: datetime
    uptime: Uptime
    """At that instant."""
    accepted_skew: timedelta
    """How much the wall clock was believed beyond the uptime, in all, since the host started or it was confirmed."""


class ClockAssessment(msgspec.Struct, frozen=True):
    """What a look at the clocks says."""

    reading: ClockSample
    """To be remembered in place of the one before."""
    skew: timedelta
    """By how much the wall clock is ahead of what is believed; negative: behind."""

    @property
    def suspended(self) -> bool:
        """Whether the wall clock is ahead by more than can be believed: nothing may be destroyed because of it."""
        return self.skew > timedelta(0)

    @property
    def behind(self) -> bool:
        """Whether the wall clock was set back; what has expired stays expired."""
        return self.skew < -MARGIN_BEHIND


def confirmed(wall: datetime, uptime: Uptime) -> ClockSample:
    """The operator, or the very first look, says that the wall clock is right."""
    return ClockSample(wall, uptime, timedelta(0))


def assess(before: ClockSample | None, wall: datetime, uptime: Uptime) -> ClockAssessment:
    """Compare the clocks with the reading before; pure."""
    if before is None:
        return ClockAssessment(confirmed(wall, uptime), timedelta(0))
    # A shorter uptime is another start, also where a sandbox hides which one it is.
    known = bool(before.uptime.boot_id and uptime.boot_id)
    same_boot = uptime.seconds >= before.uptime.seconds and not (known and before.uptime.boot_id != uptime.boot_id)
    # After a start of the host at least its present uptime has passed since any reading of an earlier one.
    passed = timedelta(seconds=uptime.seconds - before.uptime.seconds if same_boot else uptime.seconds)
    trusted = before.trusted_at + max(passed, timedelta(0))
    skew = wall - trusted
    if same_boot:
        believed = timedelta(0) < skew <= MAX_SKEW - before.accepted_skew
        accepted_skew = before.accepted_skew + skew if believed else before.accepted_skew
    else:
        believed = timedelta(0) < skew <= MAX_SKEW_AFTER_BOOT
        accepted_skew = timedelta(0)
    if believed:
        return ClockAssessment(ClockSample(wall, uptime, accepted_skew), timedelta(0))
    return ClockAssessment(ClockSample(trusted, uptime, accepted_skew), skew)
