"""What a probe of a mechanism says of its result."""

from __future__ import annotations


class WrongAnswer(Exception):
    """The mechanism works, and gives another result than it must."""


def expect(actual: object, expected: object) -> None:
    """Raise `WrongAnswer` unless they are equal."""
    if actual != expected:
        raise WrongAnswer
