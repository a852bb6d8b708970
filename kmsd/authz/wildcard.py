"""Wildcards of the policy language: `*` for any characters, `?` for one; matched in linear time.

A pattern is cut at its `*` into pieces. The first piece must stand at the start of the text, the last at its
end, and each piece between is looked for once, from where the one before it ended: finding each as far left as
possible is right for such patterns, so nothing is ever tried again.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_MARKS = re.compile(r"([*?])")
_KELVIN_SIGN = "\u212a"


class Wild(Enum):
    """A wildcard, as opposed to the character that stands for it."""

    ANY = "*"
    ONE = "?"


Token = str | Wild


def tokens(text: str) -> list[Token]:
    """`text` with its `*` and `?` told apart from plain text."""
    return [Wild(part) if part in ("*", "?") else part for part in _MARKS.split(text) if part]


def fold(text: str) -> str:
    """`text` for comparison without regard to case.

    No character outside ASCII becomes one inside it: the Kelvin sign, whose lower case is the letter k, stays.
    """
    if text.isascii():
        return text.lower()
    return "".join(character if character == _KELVIN_SIGN else character.lower() for character in text)


class _Literal:
    """A piece without `?`."""

    __slots__ = ("length", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self.length = len(text)

    def at(self, text: str, position: int) -> bool:
        """Whether `text` has this piece at `position`."""
        return text.startswith(self.text, position)

    def find(self, text: str, start: int, end: int) -> int:
        """Where this piece first stands within text[start:end]; -1: nowhere."""
        return text.find(self.text, start, end)


class _Gapped:
    """A piece with `?`, found by one pass over the text (Shift-And).

    Bit i of the state says that the last i+1 characters read fit the first i+1 of the piece.
    """

    __slots__ = ("_gaps", "_last", "_masks", "_parts", "length")

    def __init__(self, parts: Sequence[Token]) -> None:
        self._parts: list[tuple[int, str]] = []
        gaps, masks, position = 0, dict[str, int](), 0
        for part in parts:
            if isinstance(part, Wild):
                gaps |= 1 << position
                position += 1
                continue
            self._parts.append((position, part))
            for offset, character in enumerate(part):
                masks[character] = masks.get(character, 0) | 1 << (position + offset)
            position += len(part)
        self._gaps = gaps
        self._masks = {character: mask | gaps for character, mask in masks.items()}
        self._last = 1 << (position - 1)
        self.length = position

    def at(self, text: str, position: int) -> bool:
        """Whether `text` has this piece at `position`."""
        return position + self.length <= len(text) and all(
            text.startswith(part, position + offset) for offset, part in self._parts
        )

    def find(self, text: str, start: int, end: int) -> int:
        """Where this piece first stands within text[start:end]; -1: nowhere."""
        state, last, masks, gaps = 0, self._last, self._masks, self._gaps
        for position in range(start, end):
            state = (state << 1 | 1) & masks.get(text[position], gaps)
            if state & last:
                return position + 1 - self.length
        return -1


def _piece(parts: Sequence[Token]) -> _Literal | _Gapped:
    if any(isinstance(part, Wild) for part in parts):
        return _Gapped(parts)
    return _Literal("".join(part for part in parts if isinstance(part, str)))


class Pattern:
    """A compiled pattern. Comparison is by code point and regards case; fold both sides to disregard it."""

    __slots__ = ("_head", "_middle", "_tail", "_whole")

    def __init__(self, parts: Iterable[Token]) -> None:
        pieces: list[list[Token]] = [[]]
        for part in parts:
            if part is Wild.ANY:
                pieces.append([])
            else:
                pieces[-1].append(part)
        compiled = [_piece(piece) for piece in pieces]
        self._whole = len(compiled) == 1
        self._head, self._tail = compiled[0], compiled[-1]
        self._middle = tuple(piece for piece in compiled[1:-1] if piece.length)

    @classmethod
    def of(cls, text: str) -> Pattern:
        """The pattern that `text` writes."""
        return cls(tokens(text))

    def matches(self, text: str) -> bool:
        """Whether the whole of `text` fits."""
        head, tail = self._head, self._tail
        if self._whole:
            return len(text) == head.length and head.at(text, 0)
        end = len(text) - tail.length
        if end < head.length or not head.at(text, 0) or not tail.at(text, end):
            return False
        position = head.length
        for piece in self._middle:
            position = piece.find(text, position, end)
            if position < 0:
                return False
            position += piece.length
        return True
