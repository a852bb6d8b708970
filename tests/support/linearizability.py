"""Decides if a history of concurrent calls fits a linear order.

In such an order each call takes effect at one instant between its start and its end.

Wing and Gong, "Testing and verifying concurrent objects" (1993), in the form of Lowe, "Testing for linearizability"
(2017): starts and ends are taken in the order of time, and all states that are possible so far are kept. A call takes
effect only when the end of one requires it. Equal possibilities are kept once, as Porcupine does.

A call whose outcome is not known has no end: it takes effect at any later instant, or never. A history is that of one
subject, such as a key. Linear orders of all subjects make a linear order of the whole (Herlihy and Wing, 1990).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol


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


MOST_POSSIBLE = 200_000
"""Possibilities for one end, beyond which a history counts as not decided."""


class Possible(NamedTuple):
    """The state at one instant, in one linear order."""

    state: Hashable
    done: int = 0
    """Calls under way that have taken effect: bit n is that of call n."""


@dataclass
class _Frontier:
    """Possibilities of which none is included in one that was added before.

    One includes another if the state is the same, the same calls that change something are done, no further call of
    unknown outcome is used, and at least the same calls that change nothing are done.
    """

    unknown: int
    """Calls of unknown outcome, as bits."""
    lookers: int
    """Calls that change nothing."""
    size: int = 0
    _groups: dict[tuple[Hashable, int], list[int]] = field(default_factory=dict)

    def add(self, one: Possible) -> bool:
        """True if it is not included in another one."""
        group = self._groups.setdefault((one.state, one.done & ~self.unknown & ~self.lookers), [])
        used, looked = one.done & self.unknown, one.done & self.lookers
        if any(not (done & self.unknown & ~used) and not (looked & ~done) for done in group):
            return False
        group.append(one.done)
        self.size += 1
        assert self.size <= MOST_POSSIBLE, "the history is not decided: too many calls are under way"
        return True


class Checker:
    """Follows one history."""

    def __init__(self, calls: Iterable[Call], initial: Hashable) -> None:
        self._calls = sorted(
            (one for one in calls if one.ended is not None or one.effect.changes), key=lambda one: one.begun
        )
        self._under_way: list[int] = []
        self._possible = [Possible(initial)]

    def violation(self) -> str:
        """Tell what cannot be; empty if the history fits a linear order."""
        ends = [(one.ended, 1, number) for number, one in enumerate(self._calls) if one.ended is not None]
        begins = [(one.begun, 0, number) for number, one in enumerate(self._calls)]
        # At one instant starts come first: the calls then count as concurrent.
        for _, is_end, number in sorted([*begins, *ends]):
            if not is_end:
                self._under_way.append(number)
                self._possible = self._least(map(self._looked, self._possible))
                continue
            before, self._possible = self._possible, self._with(number)
            if not self._possible:
                return self._told(number, before)
            self._under_way.remove(number)
            self._possible = self._least(Possible(one.state, one.done & ~(1 << number)) for one in self._possible)
        return ""

    def _frontier(self) -> _Frontier:
        unknown = sum(1 << number for number in self._under_way if self._calls[number].ended is None)
        return _Frontier(unknown, sum(1 << number for number in self._under_way if not self._changes(number)))

    def _changes(self, number: int) -> bool:
        return self._calls[number].effect.changes

    def _least(self, possible: Iterable[Possible]) -> list[Possible]:
        """Leave out what others include."""
        frontier = self._frontier()
        ordered = sorted(possible, key=lambda one: (one.done & frontier.unknown).bit_count())
        return [one for one in ordered if frontier.add(one)]

    def _looked(self, one: Possible) -> Possible:
        """Let all calls that change nothing, and fit this state, take effect: earlier is never worse for them."""
        done = one.done
        for number in self._under_way:
            if not self._changes(number) and self._calls[number].effect.after(one.state) is not None:
                done |= 1 << number
        return Possible(one.state, done)

    def _with(self, number: int) -> list[Possible]:
        """Return the possibilities in which a call has taken effect, after as few others as needed."""
        found, frontier, left = [], self._frontier(), deque(self._possible)
        for one in self._possible:
            frontier.add(one)
        while left:
            one = left.popleft()  # those with fewer calls done come first
            if one.done >> number & 1:
                found.append(one)
            else:
                left.extend(following for following in self._following(one) if frontier.add(following))
        return found

    def _following(self, one: Possible) -> Iterable[Possible]:
        tried = set()
        for number in self._under_way:
            call = self._calls[number]
            if one.done >> number & 1 or not call.effect.changes:
                continue
            if call.ended is None:
                if call.effect in tried:
                    continue  # of several such calls with one effect, the first stands for all
                tried.add(call.effect)
            after = call.effect.after(one.state)
            if after is not None:
                yield self._looked(Possible(after, one.done | 1 << number))

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


def _times(call: Call) -> str:
    return f"[{call.begun:.4f}, {'?' if call.ended is None else f'{call.ended:.4f}'}]"


def violations(histories: Sequence[tuple[Hashable, Sequence[Call]]]) -> list[str]:
    """What cannot be, of histories with their initial states."""
    return [found for initial, calls in histories if (found := Checker(calls, initial).violation())]
