"""The checker of histories (`tests.support.linearizability`) finds what cannot be, and nothing else."""

from __future__ import annotations

import itertools
import random

import pytest

from tests.support.linear_models import NONE, Enables, Grants, KeyState, Looks, Points, PutsPolicy, Resolves, Revokes
from tests.support.linearizability import Call, Checker, Effect

USED, REFUSED = Looks(is_enabled=True), Looks(is_enabled=False)
ON, OFF = Enables(is_enabled=True), Enables(is_enabled=False)


def call(begun: float, ended: float | None, effect: Effect) -> Call:
    """A call, named by its effect."""
    return Call(begun, ended, effect, type(effect).__name__)


def violation(*calls: Call) -> str:
    """Of one key's history."""
    return Checker(calls, KeyState()).violation()


def test_a_use_after_an_acknowledged_disable() -> None:
    """It is found and named; one that began before the answer is none."""
    disable = call(1, 2, OFF)
    assert violation(disable, call(1.5, 3, USED), call(3, 4, REFUSED)) == ""
    found = violation(call(0, 1, USED), disable, call(2.1, 3, USED))
    assert found.startswith("[2.1000, 3.0000] Looks: Looks(is_enabled=True")
    assert "after  [1.0000, 2.0000] Enables" in found


def test_a_refusal_before_its_cause() -> None:
    """Nobody has disabled the key yet."""
    assert violation(call(0, 1, REFUSED), call(2, 3, OFF)) != ""


def test_answers_that_go_back() -> None:
    """Two clients see a concurrent change in one order, or not at all."""
    slow = call(0, 10, OFF)
    assert violation(slow, call(1, 2, REFUSED), call(3, 4, REFUSED)) == ""
    assert violation(slow, call(1, 2, REFUSED), call(3, 4, USED)) != ""
    assert violation(slow, call(1, 4, REFUSED), call(2, 3, USED)) == ""


def test_an_acknowledged_change_that_is_lost() -> None:
    """Also if its opposite has an unknown outcome, unless that can be the reason."""
    calls = call(0, 1, OFF), call(5, 6, USED)
    assert violation(*calls) != ""
    assert violation(*calls, call(2, None, ON)) == ""
    assert violation(*calls, call(7, None, ON)) != ""
    assert violation(*calls, call(2, None, ON), call(8, 9, REFUSED)) != ""
    assert violation(*calls, call(2, None, ON), call(3, None, OFF), call(8, 9, REFUSED)) == ""


def test_each_unknown_call_takes_effect_once() -> None:
    """Two of them explain two changes, and no third one."""
    unknown = [call(0, None, OFF), call(0, None, OFF)]
    seen = [call(1, 2, REFUSED), call(3, 4, ON), call(5, 6, REFUSED)]
    assert violation(*unknown, *seen) == ""
    assert violation(*unknown, *seen, call(7, 8, ON), call(9, 10, REFUSED)) != ""


def test_grants() -> None:
    """The id matters: a grant that was revoked is not revoked again, and the same call answers with the same grant."""
    made, gone = call(0, 1, Grants("a")), call(2, 3, Revokes("a"))
    assert violation(made, gone, call(4, 5, Looks(lacks="a")), call(6, 7, Grants("b"))) == ""
    assert violation(made, gone, call(4, 5, Revokes("a"))) != ""
    assert violation(made, call(2, 3, Grants("b"))) != ""
    assert violation(made, gone, call(4, 5, Looks(is_granted=True))) != ""
    nameless = call(2.5, None, Grants())
    assert violation(made, gone, nameless, call(4, 5, Looks(is_granted=True)), call(6, 7, Grants("b"))) == ""
    assert violation(call(0, 1, OFF), call(2, 3, Grants("a"))) != ""


def test_policies_and_parts() -> None:
    """All parts of a key change in one order."""
    put = call(0, 9, PutsPolicy("open-1"))
    assert violation(put, call(1, 2, Looks(policy="open-1"))) == ""
    assert violation(put, call(1, 2, Looks(policy="open-1")), call(3, 4, Looks(is_open=False))) != ""
    off = call(0, 9, OFF)
    both = call(1, 2, Looks(is_enabled=False, is_open=False)), call(3, 4, Looks(is_enabled=False, is_open=True))
    assert violation(put, off, *both) == ""
    assert violation(put, off, *both, call(5, 6, Looks(is_enabled=True, is_open=True))) != ""


@pytest.mark.parametrize(
    ("effects", "fits"),
    [
        ((Points("k", creates=True), Resolves("k"), Points("l"), Resolves("l"), Points(NONE), Resolves(NONE)), True),
        ((Points("k"),), False),
        ((Points("k", creates=True), Points("l", creates=True)), False),
        ((Points("k", creates=True), Points("l"), Resolves("k")), False),
        ((Points("k", creates=True), Points(NONE), Resolves("?")), False),
    ],
)
def test_aliases(effects: tuple[Effect, ...], *, fits: bool) -> None:
    """One call after the other."""
    calls = [call(number, number + 0.5, effect) for number, effect in enumerate(effects)]
    assert (Checker(calls, NONE).violation() == "") == fits


def test_many_unknown_calls() -> None:
    """Each of them may have taken effect or not: a history that fits is decided as soon as one that does not."""
    policies = [call(0, None, PutsPolicy(f"open-{number}")) for number in range(15)]
    states = [call(0, None, effect) for effect in (ON, OFF, Grants(), Revokes("a")) for _ in range(5)]
    looks = [call(1, 2, Looks(policy=f"open-{number}", is_enabled=bool(number % 2))) for number in range(5)]
    later = [call(3 + number, 3.5 + number, Looks(policy=f"open-{number}")) for number in range(5, 12)]
    calls = *policies, *states, *looks, *later
    assert violation(*calls) == ""
    assert violation(*calls, call(30, 31, Looks(policy="open-5"))) != ""


def orders(calls: list[Call]) -> bool:
    """True if a history fits a linear order; by trying all orders of all subsets of the unknown calls."""
    unknown = [one for one in calls if one.ended is None]
    known = [one for one in calls if one.ended is not None]
    for count in range(len(unknown) + 1):
        for used in itertools.combinations(unknown, count):
            for order in itertools.permutations([*known, *used]):
                in_time = all(
                    later.ended is None or later.ended >= earlier.begun
                    for number, earlier in enumerate(order)
                    for later in order[number + 1 :]
                )
                state: KeyState | None = KeyState()
                for one in order if in_time else ():
                    state = None if state is None else one.effect.after(state)
                if in_time and state is not None:
                    return True
    return False


def test_random_histories() -> None:
    """The checker says the same as trying all orders; there are many histories of both kinds."""
    chance = random.Random(20261130)  # noqa: S311 (histories, no secrets)
    effects = (ON, OFF, USED, REFUSED, Grants("a"), Revokes("a"), Looks(is_granted=True), Looks(is_granted=False))
    verdicts = []
    for _ in range(400):
        calls = []
        for _ in range(5):
            begun, effect = chance.randrange(12), chance.choice(effects)
            is_known = chance.random() < 0.75
            calls.append(call(begun, begun + chance.randrange(1, 6) if is_known else None, effect))
        verdicts.append(orders(calls))
        assert (violation(*calls) == "") == verdicts[-1], calls
    assert 100 < sum(verdicts) < 300
