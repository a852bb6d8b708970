"""Buckets by principal and class: exact bounds, no interference, no growth."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmsd.cloudwatch_logs.operations import put_log_events
from kmsd.config.settings import ConfigError, parse
from kmsd.operations.kms import create_key, decrypt, encrypt, generate_random, list_keys
from kmsd.services import OPERATIONS
from kmsd.wire.throttling import CLASSES, MAX_PRINCIPALS, RateClass, Throttle

ENCRYPT, LIST = encrypt.OPERATION, list_keys.OPERATION
TOKEN = '[token]\nmodule = "/x"\npin_file = "/y"\nlabel = "z"\n'


def rates(per_second: float = 10.0, burst: float = 2.0, workers: int = 1) -> Throttle:
    """Of cryptographic operations alone."""
    return Throttle({RateClass.CRYPTOGRAPHIC: per_second}, burst, workers)


def test_every_operation_has_a_class() -> None:
    """And those that cost the token share one."""
    assert set(CLASSES) == set(OPERATIONS)
    for operation in (ENCRYPT, decrypt.OPERATION, generate_random.OPERATION):
        assert CLASSES[operation] is RateClass.CRYPTOGRAPHIC
    assert CLASSES[create_key.OPERATION] is RateClass.MANAGEMENT
    assert CLASSES[put_log_events.OPERATION] is RateClass.LOGS


@pytest.mark.parametrize(("workers", "expected"), [(1, 20), (2, 10), (4, 5)])
def test_a_burst_and_then_the_rate(workers: int, expected: int) -> None:
    """All workers together grant the configured figure, and no call more."""
    found = rates(workers=workers)
    assert sum(found.allow(ENCRYPT, "a", 100.0) for _ in range(1000)) == expected
    granted = sum(found.allow(ENCRYPT, "a", 100.0 + n / 1000) for n in range(10_000))
    assert granted in (100 // workers - 1, 100 // workers)


def test_principals_and_classes_do_not_share() -> None:
    """One that has used up its own takes nothing from another, nor from what it may do besides."""
    found = rates()
    while found.allow(ENCRYPT, "hog", 0.0):
        pass
    assert found.allow(ENCRYPT, "other", 0.0)
    assert found.allow(LIST, "hog", 0.0)


@given(st.lists(st.floats(0, 0.5), max_size=200))
def test_no_interval_grants_more(pauses: list[float]) -> None:
    """In any stretch of time: the burst and what the rate gives meanwhile, whatever the pattern of calls."""
    found, now, granted = rates(), 1000.0, []
    for pause in pauses:
        now += pause
        if found.allow(ENCRYPT, "a", now):
            granted.append(now)
    for first in range(len(granted)):
        for last in range(first, len(granted)):
            assert last - first + 1 <= 20 + (granted[last] - granted[first]) * 10 + 1e-6


def test_idle_principals_are_forgotten() -> None:
    """A hundred thousand names, each once: memory for some thousand; and a spent one is not forgiven."""
    found = rates()
    (bucket,) = {id(one): one for one in found.buckets.values()}.values()
    now = 0.0
    for number in range(100_000):
        now += 0.001
        assert found.allow(ENCRYPT, f"user-{number}", now)
        while number % 10_000 == 0 and found.allow(ENCRYPT, "hog", now):
            pass
    assert len(bucket.full_at) <= MAX_PRINCIPALS
    while found.allow(ENCRYPT, "hog", now):
        pass
    for number in range(2 * MAX_PRINCIPALS):
        found.allow(ENCRYPT, f"more-{number}", now)
    assert not found.allow(ENCRYPT, "hog", now)


def test_off_by_default() -> None:
    """Without `[rates]` nothing is limited."""
    config = parse(TOKEN, Path("x"))
    assert (config.rates.cryptographic, config.rates.management, config.rates.logs, config.rates.sts) == (0, 0, 0, 0)
    assert not Throttle(dict.fromkeys(RateClass, 0.0), 2.0, 2).limits_anything


@pytest.mark.parametrize("line", ["logs = -1", "sts = 0.9", "burst_seconds = 0", "management = 1\nburst_seconds = 1"])
def test_rates_that_cannot_be(line: str) -> None:
    """Refused by name, two workers being the default."""
    with pytest.raises(ConfigError, match="rates"):
        parse(f"{TOKEN}[rates]\n{line}\n", Path("x"))
