"""When the wall clock is believed, and when not."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmsd.domain.trusted_time import MAX_SKEW, ClockSample, Uptime, assess, confirmed

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
START = confirmed(NOON, Uptime("boot", 1000.0))


def after(
    seconds: float, jump: float, before: ClockSample = START, boot: str = "boot"
) -> tuple[bool, bool, ClockSample]:
    """Held, behind and the reading, when so much time has passed and the clock was set by `jump` seconds."""
    wall = before.trusted_at + timedelta(seconds=seconds + jump)
    uptime = Uptime(boot, before.uptime.seconds + seconds if boot == before.uptime.boot_id else seconds)
    found = assess(before, wall, uptime)
    return found.suspended, found.behind, found.reading


@pytest.mark.parametrize("passed", [0, 15, 86_400, 400 * 86_400])
def test_time_that_passes_is_believed(passed: float) -> None:
    """However long the daemon was stopped, if the host ran on."""
    assert after(passed, 0)[:2] == (False, False)


@pytest.mark.parametrize(("jump", "held"), [(3599, False), (3601, True), (40 * 86_400, True)])
def test_a_jump_forward(jump: float, *, held: bool) -> None:
    """More than an hour is too much."""
    assert after(15, jump)[0] is held


def test_small_steps_add_up() -> None:
    """Sixty steps of two minutes are no better than one of two hours."""
    reading, verdicts = START, []
    for _ in range(60):
        held, _, reading = after(15, 120, reading)
        verdicts.append(held)
    assert verdicts.index(True) == 30


def test_a_start_of_the_host() -> None:
    """A night off is believed, a weekend is not, and what was on trust before is forgotten with the reboot."""
    assert after(60, 12 * 3600, boot="next")[0] is False
    assert after(60, 25 * 3600, boot="next")[0] is True
    assert after(60, 12 * 3600, boot="next")[2].accepted_skew == timedelta(0)


def test_a_start_of_a_host_that_hides_its_boot_id() -> None:
    """A shorter uptime is another start."""
    before = confirmed(NOON, Uptime("", 1000.0))
    wall = NOON + timedelta(hours=12)
    assert not assess(before, wall, Uptime("", 60.0)).suspended
    assert assess(before, wall, Uptime("", 1060.0)).suspended


@pytest.mark.parametrize(("one", "other"), [("", "boot"), ("boot", "")])
def test_a_command_sees_what_the_sandbox_hides(one: str, other: str) -> None:
    """The daemon in its unit does not know the start, a command beside it does: they agree on the time."""
    before = confirmed(NOON, Uptime(one, 1000.0))
    found = assess(before, NOON + timedelta(seconds=60), Uptime(other, 1060.0))
    assert (found.suspended, found.behind, found.skew) == (False, False, timedelta(0))


def test_forward_and_back_leaves_nothing() -> None:
    """A clock that is set right again is believed again, at once."""
    held, _, reading = after(15, 40 * 86_400)
    assert held
    assert after(15, 0, reading)[:2] == (False, False)


def test_back_and_forward_is_no_way_round() -> None:
    """Setting it back first buys nothing: the trusted instant has gone on."""
    _, behind, reading = after(15, -40 * 86_400)
    assert behind
    held, behind, reading = after(15, 0, reading)
    assert (held, behind) == (False, False)
    assert after(15, 7200, reading)[0] is True


def test_the_operator_confirms() -> None:
    """Forward or back, what he says holds."""
    for jump in (40, -40):
        right = confirmed(NOON + timedelta(days=jump), Uptime("boot", 1015.0))
        assert after(15, 0, right)[:2] == (False, False)


@given(st.lists(st.tuples(st.floats(0, 1e5), st.floats(-1e7, 1e7)), max_size=30))
def test_the_trusted_instant_is_never_far_ahead_of_the_time(steps: list[tuple[float, float]]) -> None:
    """Whatever is done to the clock while the host runs: no more than an hour, and it never goes back."""
    reading, now = START, NOON
    for passed, jump in steps:
        now += timedelta(seconds=passed)
        uptime = Uptime("boot", reading.uptime.seconds + passed)
        later = assess(reading, now + timedelta(seconds=jump), uptime).reading
        assert reading.trusted_at <= later.trusted_at <= now + MAX_SKEW + timedelta(milliseconds=1)
        reading = later
