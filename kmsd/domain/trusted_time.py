"""Decide how far to trust the wall clock: distinguishes a clock that was set from time that has passed.

The reference is the uptime of the host, which cannot be set. The store keeps one *sample* of both and a trusted time:
the wall clock when it was last accepted, plus the uptime since. A wall clock ahead of the trusted time is accepted up
to a bounded skew; beyond it the operator must confirm. A wall clock behind is never accepted: the trusted time
continues.
"""

from __future__ import annotations

from datetime import datetime, timedelta

import msgspec

MAX_SKEW = timedelta(hours=1)
"""Maximum total forward skew of the wall clock that is accepted while the host runs."""
MAX_SKEW_AFTER_BOOT = timedelta(days=1)
"""Maximum time for which the host may have been off. Only the wall clock measures that time."""
MARGIN_BEHIND = timedelta(minutes=1)
"""Steps back by less than this are not reported: time services make them."""


class Uptime(msgspec.Struct, frozen=True):
    """Uptime of the host, from a clock that includes suspension and cannot be set."""

    boot_id: str
    """Differs between boots of the host. Empty if the process cannot read it."""
    seconds: float


class ClockSample(msgspec.Struct, frozen=True):
    """The sample of the clocks in the store."""

    trusted_at: datetime
    uptime: Uptime
    """Uptime at the instant `trusted_at`."""
    accepted_skew: timedelta
    """Total skew that was accepted beyond the uptime since the host started or the operator confirmed the clock."""


class ClockAssessment(msgspec.Struct, frozen=True):
    """Result of comparing the clocks."""

    reading: ClockSample
    """The sample that replaces the previous one in the store."""
    skew: timedelta
    """Lead of the wall clock over the trusted time; negative: behind."""

    @property
    def suspended(self) -> bool:
        """True if the wall clock is ahead by more than is accepted. Then nothing may be destroyed because of it."""
        return self.skew > timedelta(0)

    @property
    def behind(self) -> bool:
        """True if the wall clock was set back. What has expired stays expired."""
        return self.skew < -MARGIN_BEHIND


def confirmed(wall: datetime, uptime: Uptime) -> ClockSample:
    """Return a sample that accepts the wall clock: on confirmation by the operator, and at the very first check."""
    return ClockSample(wall, uptime, timedelta(0))


def assess(before: ClockSample | None, wall: datetime, uptime: Uptime) -> ClockAssessment:
    """Compare the clocks with the previous sample. Pure function."""
    if before is None:
        return ClockAssessment(confirmed(wall, uptime), timedelta(0))
    # A shorter uptime means another boot, even if a sandbox hides the boot id.
    known = bool(before.uptime.boot_id and uptime.boot_id)
    same_boot = uptime.seconds >= before.uptime.seconds and not (known and before.uptime.boot_id != uptime.boot_id)
    # After a reboot, at least the current uptime has passed since any sample of an earlier boot.
    passed = timedelta(seconds=uptime.seconds - before.uptime.seconds if same_boot else uptime.seconds)
    trusted = before.trusted_at + max(passed, timedelta(0))
    skew = wall - trusted
    if same_boot:
        accepted = timedelta(0) < skew <= MAX_SKEW - before.accepted_skew
        accepted_skew = before.accepted_skew + skew if accepted else before.accepted_skew
    else:
        accepted = timedelta(0) < skew <= MAX_SKEW_AFTER_BOOT
        accepted_skew = timedelta(0)
    if accepted:
        return ClockAssessment(ClockSample(wall, uptime, accepted_skew), timedelta(0))
    return ClockAssessment(ClockSample(trusted, uptime, accepted_skew), skew)
