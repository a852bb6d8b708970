"""Requests and responses as a record shows them: without secrets, with CloudTrail's names and types."""

from __future__ import annotations

import types
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import cache, partial
from operator import attrgetter
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import msgspec

from kmsd.domain.key_spec import SYMMETRIC_DEFAULT
from kmsd.operations.kms.shapes import Constraint, camel

Convert = Callable[[Any], Any]

# "The CloudTrail log entry for a Decrypt operation always includes the encryptionAlgorithm in the requestParameters
# even if the encryption algorithm wasn't specified in the request" (KMS Developer Guide, Decrypt); so do the examples
# of Encrypt and ReEncrypt.
_IMPLIED = dict.fromkeys(
    ("encryption_algorithm", "source_encryption_algorithm", "destination_encryption_algorithm"), SYMMETRIC_DEFAULT
)
_NAMES = {"AWSAccountId": "AWSAccountId"}
"""Members whose CloudTrail name does not begin with a small letter."""


@cache
def shown_members(struct: type[msgspec.Struct]) -> tuple[tuple[str, str], ...]:
    """Return (attribute, name in the record) of every member that is not secret; derived once for each struct."""
    hints = get_type_hints(struct, include_extras=True)
    names = dict(zip(struct.__struct_fields__, struct.__struct_encode_fields__, strict=True))
    return tuple(
        (name, _NAMES.get(names[name]) or camel(names[name]))
        for name in struct.__struct_fields__
        if not _is_secret(hints[name])
    )


def _is_secret(hint: Any) -> bool:
    """True if a type, or one of the alternatives of a union, has a secret constraint."""
    return any(
        (isinstance(part, Constraint) and part.secret) or (not isinstance(part, Constraint) and _is_secret(part))
        for part in (*getattr(hint, "__metadata__", ()), *get_args(hint))
        if isinstance(part, Constraint) or hasattr(part, "__metadata__") or get_args(part)
    )


def redact(value: msgspec.Struct) -> dict[str, Any]:
    """Return a request or response as JSON values, without secrets, absent members and empty ones."""
    get, rules = _plan(type(value))
    shown = {}
    for (name, convert, substitute), member in zip(rules, get(value), strict=True):
        if not member and substitute is not _NONE:
            member = substitute  # noqa: PLW2901 (the same member, as the record has it)
        elif convert is not None:
            member = convert(member)  # noqa: PLW2901 (as above)
        if member is not None:
            shown[name] = member
    return shown


_NONE = object()
"""No substitute: a false or empty value is shown as it is."""
Rule = tuple[Convert | None, object]
"""Conversion of a value (None: it is shown as it is), and what a record shows in place of an absent or empty one."""


@cache
def _plan(
    struct: type[msgspec.Struct],
) -> tuple[Callable[[Any], tuple[Any, ...]], tuple[tuple[str, Convert | None, object], ...]]:
    """Return a getter of all shown members of a struct, and each one's name and rule."""
    hints = get_type_hints(struct, include_extras=True)
    members = shown_members(struct)
    attributes = [attribute for attribute, _ in members]
    named = tuple((name, *_rule_of(hints[attribute], _IMPLIED.get(attribute))) for attribute, name in members)
    match attributes:
        case []:
            return (lambda _: ()), ()
        case [only]:
            return (lambda value: (getattr(value, only),)), named
        case _:
            return attrgetter(*attributes), named


def _rule_of(hint: Any, implied: str | None) -> Rule:
    """Return the rule for values of a type."""
    if implied is not None:
        return None, implied
    while get_origin(hint) in (Annotated, Union, types.UnionType):
        hint = next(part for part in get_args(hint) if part is not type(None))
    origin = get_origin(hint)
    if origin is list or origin is tuple:
        item, _ = _rule_of(get_args(hint)[0], None)
        return None if item is None else partial(_convert_items, item), None
    if origin is dict:
        return None, None
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        return redact, None
    return _SCALARS.get(hint), _NONE


def _convert_items(convert: Convert, items: Sequence[Any]) -> list[Any]:
    return [convert(item) for item in items]


def _length(value: bytes | None) -> str | None:
    return None if value is None else f"{len(value)} bytes"


def cloudtrail_date(seconds: float | None) -> str | None:
    """Return `Aug 10, 2022, 10:38:27 PM`, the form of dates in CloudTrail's KMS examples."""
    if seconds is None:
        return None
    instant = datetime.fromtimestamp(seconds, UTC)
    month = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"][instant.month - 1]
    half = "AM" if instant.hour < 12 else "PM"  # noqa: PLR2004 (hours of half a day)
    return f"{month} {instant.day}, {instant.year}, {instant.hour % 12 or 12}:{instant:%M:%S} {half}"


# Timestamps are the only floats among the API's shapes (`shapes.Timestamp`).
_SCALARS: dict[Any, Convert] = {bytes: _length, float: cloudtrail_date}
