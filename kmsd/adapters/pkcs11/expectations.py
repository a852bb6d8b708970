"""Check of a self-test's result."""

from __future__ import annotations


class WrongAnswer(Exception):
    """The mechanism works but returns a wrong result."""


def expect(actual: object, expected: object) -> None:
    """Raise `WrongAnswer` unless both values are equal."""
    if actual != expected:
        raise WrongAnswer
