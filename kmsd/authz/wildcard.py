"""Wildcards of the policy language, matched in linear time: `*` for any characters, `?` for one.

A pattern is split at each `*` into pieces. The first piece must be at the start of the text, the last at its end. Each
piece between is searched for once, from the end of the previous one. The leftmost match is always right for such
patterns, so there is no backtracking.
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
    """A wildcard, as opposed to the plain character."""

    ANY = "*"
    ONE = "?"


Token = str | Wild


def tokens(text: str) -> list[Token]:
    """Split `text` into wildcards and plain text."""
    return [Wild(part) if part in ("*", "?") else part for part in _MARKS.split(text) if part]


def fold(text: str) -> str:
    """Return `text` in lower case, for comparison without regard to case.

    No character outside ASCII becomes an ASCII one: the Kelvin sign, whose lower case is the letter k, is kept.
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
        """True if `text` has this piece at `position`."""
        return text.startswith(self.text, position)

    def find(self, text: str, start: int, end: int) -> int:
        """Return the first position of this piece in text[start:end]; -1 if it is not there."""
        return text.find(self.text, start, end)


class _Gapped:
    """A piece with `?`, found in one pass over the text (Shift-And algorithm).

    Bit i of the state is set if the last i+1 characters read match the first i+1 of the piece.
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
        """True if `text` has this piece at `position`."""
        return position + self.length <= len(text) and all(
            text.startswith(part, position + offset) for offset, part in self._parts
        )

    def find(self, text: str, start: int, end: int) -> int:
        """Return the first position of this piece in text[start:end]; -1 if it is not there."""
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
    """A compiled pattern. Comparison is by code point and case-sensitive; fold both sides to ignore case."""

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
        """Compile the pattern `text`."""
        return cls(tokens(text))

    def matches(self, text: str) -> bool:
        """True if the whole of `text` matches."""
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
