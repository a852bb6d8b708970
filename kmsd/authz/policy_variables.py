"""Policy variables (`${aws:username}`) and patterns that contain them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import msgspec

from kmsd.authz.wildcard import Pattern, Token, Wild, fold, tokens

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kmsd.authz.request_context import RequestContext

ARN_PARTS = 6
"""Parts of an ARN: `arn:partition:service:region:account:resource`. The resource may contain colons."""

_OPENING = re.compile(r"\$\{([^{}]*)\}")
_NAME = re.compile(r"[A-Za-z0-9.-]+:[^,']+")
_WITH_DEFAULT = re.compile(r"([^,]+?) ?, ?'(.*)'", re.DOTALL)
_SPECIAL = {"*": "*", "?": "?", "$": "$"}
"""Escapes: `${*}`, `${?}` and `${$}` are the literal characters."""


class Variable(msgspec.Struct, frozen=True):
    """A placeholder for a value of the request."""

    key: str
    """Folded condition key."""
    default: str | None

    def resolve(self, request_context: RequestContext) -> str | None:
        """Return its value for this request; None if it has none."""
        value = request_context.single(self.key)
        return self.default if value is None else value


TemplateToken = Token | Variable


def parse(text: str, *, variables: bool, wildcards: bool = True) -> tuple[TemplateToken, ...]:
    """Split `text` into tokens. Raises `ValueError` if `${` does not start a valid variable.

    With `variables=False`, `${` is plain text, as in policies of version 2008-10-17.
    """
    plain = tokens if wildcards else _plain
    if not variables or "${" not in text:
        return tuple(plain(text))
    parts: list[TemplateToken] = []
    position = 0
    for found in _OPENING.finditer(text):
        _no_opening(text[position : found.start()])
        parts += plain(text[position : found.start()])
        parts.append(_variable(found[1]))
        position = found.end()
    _no_opening(text[position:])
    return (*parts, *plain(text[position:]))


def _plain(text: str) -> list[Token]:
    return [text] if text else []


def _no_opening(text: str) -> None:
    if "${" in text:
        msg = "a policy variable is not closed"
        raise ValueError(msg)


def _variable(inside: str) -> TemplateToken:
    if inside in _SPECIAL:
        return _SPECIAL[inside]
    default = None
    if with_default := _WITH_DEFAULT.fullmatch(inside):
        inside, default = with_default[1], with_default[2]
    if not _NAME.fullmatch(inside):
        msg = "a policy variable names no condition key"
        raise ValueError(msg)
    return Variable(fold(inside), default)


def resolved(parts: Sequence[TemplateToken], request_context: RequestContext) -> list[Token] | None:
    """Replace variables by their values; None if a variable has no value.

    A value is plain text: a `*` in the value of a tag is no wildcard.
    """
    result: list[Token] = []
    for part in parts:
        if isinstance(part, Variable):
            value = part.resolve(request_context)
            if value is None:
                return None
            result.append(value)
        else:
            result.append(part)
    return result


class Template:
    """A pattern that may contain variables."""

    __slots__ = ("_parts", "_pattern")

    def __init__(self, parts: Sequence[TemplateToken]) -> None:
        self._parts = tuple(parts)
        self._pattern = None if self.varies else Pattern(part for part in parts if not isinstance(part, Variable))

    @property
    def varies(self) -> bool:
        """True if it contains a variable."""
        return any(isinstance(part, Variable) for part in self._parts)

    def unresolved(self, request_context: RequestContext) -> bool:
        """True if one of its variables has no value in this request."""
        return self._pattern is None and resolved(self._parts, request_context) is None

    def matches(self, text: str, request_context: RequestContext | None) -> bool:
        """True if the whole of `text` matches. A template with a variable that has no value matches nothing.

        `request_context=None` is for templates without variables.
        """
        if self._pattern is not None:
            return self._pattern.matches(text)
        parts = resolved(self._parts, request_context) if request_context is not None else None
        return parts is not None and Pattern(parts).matches(text)


class ArnTemplate:
    """An ARN pattern. Each part between colons is compared with the same part of the text.

    Therefore no wildcard and no variable matches across accounts. Only a `*` at the end of the pattern matches beyond
    a colon.
    """

    __slots__ = ("_parts", "varies")

    def __init__(self, parts: Sequence[TemplateToken]) -> None:
        """Compile the pattern. Raises `ValueError` unless there are six parts, or fewer and a `*` at the very end."""
        split = _split(parts)
        if len(split) < ARN_PARTS and not (parts and parts[-1] is Wild.ANY):
            msg = "is not an ARN"
            raise ValueError(msg)
        self._parts = tuple(Template(part) for part in split)
        self.varies = any(part.varies for part in self._parts)

    @property
    def length(self) -> int:
        """Return the number of parts in the pattern."""
        return len(self._parts)

    @property
    def varies_early(self) -> bool:
        """True if there is a variable before the fifth colon, where AWS does not allow one."""
        return any(part.varies for part in self._parts[: ARN_PARTS - 1])

    def unresolved(self, request_context: RequestContext) -> bool:
        """True if one of its variables has no value in this request."""
        return self.varies and any(part.unresolved(request_context) for part in self._parts)

    def matches(self, text: str, request_context: RequestContext | None) -> bool:
        """True if `text` is an ARN that matches."""
        split = text.split(":", len(self._parts) - 1)
        return len(split) == len(self._parts) and all(
            part.matches(piece, request_context) for part, piece in zip(self._parts, split, strict=True)
        )


def _split(parts: Sequence[TemplateToken]) -> list[list[TemplateToken]]:
    """Split `parts` at the first five colons of the pattern's own text."""
    split: list[list[TemplateToken]] = [[]]
    for part in parts:
        if not isinstance(part, str):
            split[-1].append(part)
            continue
        pieces = part.split(":", ARN_PARTS - len(split))
        split[-1].append(pieces[0])
        split += [[piece] for piece in pieces[1:]]
    return split
