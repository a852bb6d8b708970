"""Decides if a history of concurrent calls fits a linear order.

In such an order each call takes effect at one instant between its start and its end.

Wing and Gong, "Testing and verifying concurrent objects" (1993), in the form of Lowe, "Testing for linearizability"
(2017): starts and ends are taken in the order of time, and all states that are possible so far are kept. A call takes
effect only when the end of one requires it. Equal possibilities are kept once, as Porcupine does.

A call whose outcome is not known has no end: it takes effect at any later instant, or never. A history is that of one
subject, such as a key. Linear orders of all subjects make a linear order of the whole (Herlihy and Wing, 1990).
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol


class Effect(Protocol):
    """Compares equal to effects that do the same, and is hashable."""

    @property
    def changes(self) -> bool:
        """False: it leaves every state as it is."""

    def after(self, state: Any) -> Any | None:
        """The state that follows; None if the answer does not fit this state."""


@dataclass(frozen=True)
class Call:
    """One call, as its client saw it."""

    begun: float
    ended: float | None
    """None: there was no answer, or one that leaves open if it worked."""
    effect: Effect
    text: str


@dataclass(frozen=True)
class Possible:
    """The state at one instant, in one linear order."""

    state: Hashable
    done: frozenset[int] = frozenset()
    """Calls under way that have taken effect."""


class Checker:
    """Follows one history."""

    def __init__(self, calls: Iterable[Call], initial: Hashable) -> None:
        self._calls = sorted(
            (one for one in calls if one.ended is not None or one.effect.changes), key=lambda one: one.begun
        )
        self._under_way: list[int] = []
        self._possible = {Possible(initial)}

    def violation(self) -> str:
        """Tell what cannot be; empty if the history fits a linear order."""
        ends = [(one.ended, 1, number) for number, one in enumerate(self._calls) if one.ended is not None]
        begins = [(one.begun, 0, number) for number, one in enumerate(self._calls)]
        # At one instant starts come first: the calls then count as concurrent.
        for _, is_end, number in sorted([*begins, *ends]):
            if not is_end:
                self._under_way.append(number)
                self._possible = {self._looked(one) for one in self._possible}
                continue
            before, self._possible = self._possible, self._with(number)
            if not self._possible:
                return self._told(number, before)
            self._under_way.remove(number)
            self._possible = _least(
                (Possible(one.state, one.done - {number}) for one in self._possible), self._unknown, self._lookers
            )
        return ""

    @property
    def _unknown(self) -> frozenset[int]:
        return frozenset(number for number in self._under_way if self._calls[number].ended is None)

    @property
    def _lookers(self) -> frozenset[int]:
        return frozenset(number for number in self._under_way if not self._calls[number].effect.changes)

    def _looked(self, one: Possible) -> Possible:
        """Let all calls that change nothing, and fit this state, take effect: earlier is never worse for them."""
        fit = [number for number in self._lookers if self._calls[number].effect.after(one.state) is not None]
        return Possible(one.state, one.done.union(fit))

    def _with(self, number: int) -> set[Possible]:
        """Return the possibilities in which a call has taken effect, after as few others as needed."""
        found, seen, left = set[Possible](), set(self._possible), list(self._possible)
        while left:
            one = left.pop()
            if number in one.done:
                found.add(one)
                continue
            for following in self._following(one):
                if following not in seen:
                    seen.add(following)
                    left.append(following)
        return found

    def _following(self, one: Possible) -> Iterable[Possible]:
        tried = set()
        for number in self._under_way:
            call = self._calls[number]
            if number in one.done or not call.effect.changes:
                continue
            if call.ended is None:
                if call.effect in tried:
                    continue  # of several such calls with one effect, the first stands for all
                tried.add(call.effect)
            after = call.effect.after(one.state)
            if after is not None:
                yield self._looked(Possible(after, one.done | {number}))

    def _told(self, number: int, before: Iterable[Possible]) -> str:
        call = self._calls[number]
        lines = [
            f"{_times(call)} {call.text}: {call.effect} fits none of {sorted({repr(one.state) for one in before})}"
        ]
        lines += [f"    beside {_times(one)} {one.text}" for one in map(self._calls.__getitem__, self._under_way)]
        earlier = [
            one for one in self._calls if one.ended is not None and one.ended < call.begun and one.effect.changes
        ]
        lines += [f"    after  {_times(one)} {one.text}" for one in earlier[-5:]]
        return "\n".join(lines)


def _least(possible: Iterable[Possible], unknown: frozenset[int], lookers: frozenset[int]) -> set[Possible]:
    """Leave out what another one includes: with fewer calls of unknown outcome used, and as many others done."""
    groups: dict[tuple[Hashable, frozenset[int]], set[Possible]] = {}
    for one in possible:
        groups.setdefault((one.state, one.done - unknown - lookers), set()).add(one)
    return {
        one
        for group in groups.values()
        for one in group
        if not any(
            other != one and other.done & unknown <= one.done & unknown and one.done & lookers <= other.done & lookers
            for other in group
        )
    }


def _times(call: Call) -> str:
    return f"[{call.begun:.4f}, {'?' if call.ended is None else f'{call.ended:.4f}'}]"


def violations(histories: Sequence[tuple[Hashable, Sequence[Call]]]) -> list[str]:
    """What cannot be, of histories with their initial states."""
    return [found for initial, calls in histories if (found := Checker(calls, initial).violation())]
