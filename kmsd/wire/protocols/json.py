"""Decoding of JSON 1.1 requests and encoding of responses, with AWS's wording of validation errors.

A body that fits its declaration is decoded in one step. One that does not is then checked member by member. A wrong
JSON type is a SerializationException; all other violated constraints are collected into one ValidationException.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from functools import cache
from typing import Annotated, Any, NoReturn, TypeVar, Union, get_args, get_origin, get_type_hints

import msgspec

from kmsd.errors import SerializationException, ValidationException
from kmsd.operations.kms.shapes import Constraint, camel

RequestT = TypeVar("RequestT", bound=msgspec.Struct)
_MAX_ECHO_LENGTH = 2048
"""Characters of a value that an error message quotes at most."""

encode = msgspec.json.encode
"""Encode a response as JSON: absent members left out, blobs in base64."""


def decode(body: bytes, request: type[RequestT]) -> RequestT:
    """Return the request that `body` holds. Raises SerializationException, ValidationException."""
    plan = _plan(request)
    try:
        decoded: RequestT = plan.decode(body or b"{}")
    except msgspec.ValidationError:
        return _decode_reporting(body, request)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise SerializationException("The request body is not valid JSON.", detail=type(exc).__name__) from exc
    if plan.forget_empty is not None:
        plan.forget_empty(decoded)
    for attribute, shortest, longest, fits in plan.tests:
        member = getattr(decoded, attribute)
        if member is not None and not (shortest <= len(member) <= longest and (fits is None or fits(member))):
            break
    else:
        if plan.tests_suffice:
            return decoded
    violations: list[str] = []
    plan.check(decoded, "", violations)
    if violations:
        _refuse(violations)
    return decoded


def _decode_reporting(body: bytes, request: type[RequestT]) -> RequestT:
    """Find the violations: null and absent members, wrong types, and then all broken constraints."""
    try:
        raw = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise SerializationException("The request body is not valid JSON.", detail=type(exc).__name__) from exc
    return validate(raw, request)


def validate(raw: Any, request: type[RequestT]) -> RequestT:
    """Return the request that decoded JSON (or a form) holds. Raises SerializationException, ValidationException."""
    violations: list[str] = []
    cleaned = _clean(raw, request, "", violations)
    if violations:
        _refuse(violations)
    converted = msgspec.convert(cleaned, request)
    forget_empty = _drop_empty(request)
    if forget_empty is not None:
        forget_empty(converted)
    return converted


def _refuse(violations: list[str]) -> NoReturn:
    plural = "" if len(violations) == 1 else "s"
    raise ValidationException(f"{len(violations)} validation error{plural} detected: {'; '.join(violations)}")


# --- Declarations to plans, once for each request type -------------------------------------------------

Check = Callable[[Any, str, list[str]], None]
Change = Callable[[Any], None]


Test = tuple[str, int, int, Callable[[Any], Any] | None]
"""Member, bounds of its length, and what is true for a valid value; None: any value is."""


class _Plan(msgspec.Struct, frozen=True):
    """Decoding of one request type, and the checks that the decoder does not make."""

    decode: Callable[[bytes], Any]
    forget_empty: Change | None
    check: Check
    """Checks everything, and finds the wording of violations."""
    tests: tuple[Test, ...]
    """Quick tests, which nearly every request passes. Only valid requests do."""
    tests_suffice: bool
    """True if the tests cover everything that `check` does."""


@cache
def _plan(request: type[msgspec.Struct]) -> _Plan:
    check = _struct_check(request) or _nothing_to_check
    found = [_test_of(attribute, hint) for attribute, _, hint, _ in members(request) if _check_of(hint) is not None]
    tests = tuple(test for test in found if test is not None)
    decode = msgspec.json.Decoder(request).decode
    return _Plan(decode, _drop_empty(request), check, tests, len(tests) == len(found))


@cache
def members(struct: type[msgspec.Struct]) -> tuple[tuple[str, str, Any, bool], ...]:
    """Return (attribute, wire name, type, required) of each member."""
    hints = get_type_hints(struct, include_extras=True)
    fields = msgspec.structs.fields(struct)
    return tuple((field.name, field.encode_name, hints[field.name], field.required) for field in fields)


@cache
def _drop_empty(struct: type[msgspec.Struct]) -> Change | None:
    """Return a function that makes empty optional lists and maps absent, in place; None if the structure has none.

    Clients send an empty list or map for a member that was never set: Terraform, for a grant with one constraint, sends
    the other one as `{}`. Where the API gives it a minimum length, an empty one is refused instead:
    `Value '{}' at 'tags' failed to satisfy constraint: Member must have length greater than or equal to 1`.
    """
    emptiable = tuple(
        attribute for attribute, _, hint, required in members(struct) if not required and _may_be_empty(hint)
    )
    inner = tuple(
        (attribute, change)
        for attribute, _, hint, _ in members(struct)
        if (change := _change_within(bare(hint)[0])) is not None
    )
    if not emptiable and not inner:
        return None

    def forget(value: Any) -> None:
        for attribute in emptiable:
            member = getattr(value, attribute)
            if member is not None and not member:
                msgspec.structs.force_setattr(value, attribute, None)
        for attribute, change in inner:
            member = getattr(value, attribute)
            if member is not None:
                change(member)

    return forget


def _may_be_empty(hint: Any) -> bool:
    """True for a list or map without minimum length whose default is None.

    Others default to empty, which means the same as absent.
    """
    if type(None) not in get_args(hint):
        return False
    hint, constraint = bare(hint)
    return get_origin(hint) in (list, dict) and not (constraint is not None and constraint.min_length)


def _change_within(hint: Any) -> Change | None:
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        return _drop_empty(hint)
    return None


def _struct_check(struct: type[msgspec.Struct]) -> Check | None:
    checks = [
        (attribute, camel(wire_name), check)
        for attribute, wire_name, hint, _ in members(struct)
        if (check := _check_of(hint)) is not None
    ]

    if not checks:
        return None

    def check_members(value: Any, path: str, violations: list[str]) -> None:
        for attribute, name, check in checks:
            member = getattr(value, attribute)
            if member is not None:
                check(member, f"{path}.{name}" if path else name, violations)

    return check_members


def _nothing_to_check(value: Any, path: str, violations: list[str]) -> None:
    """Check nothing: the request has no constraints."""


def _check_of(hint: Any) -> Check | None:
    """Return the check for values of this type; None if there is nothing to check."""
    if any(isinstance(part, msgspec.Meta) for part in getattr(hint, "__metadata__", ())):
        return None  # the decoder has checked it; if it refuses the value, `validate` finds the wording
    hint, constraint = bare(hint)
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        return _struct_check(hint)
    if get_origin(hint) is list:
        return _list_check(_check_of(get_args(hint)[0]), constraint)
    if constraint is None:
        return None
    bound = constraint

    def check_value(value: Any, path: str, violations: list[str]) -> None:
        violations.extend(_violation(value, path, broken, secret=bound.secret) for broken in _broken(value, bound))

    return check_value


def _test_of(attribute: str, hint: Any) -> Test | None:
    """Return the quick test of a member; None if there is none."""
    hint, constraint = bare(hint)
    if get_origin(hint) is list:
        # An empty list has no items to check; an absent one is empty.
        return None if constraint is not None and constraint.min_length else (attribute, 0, 0, None)
    if constraint is None or constraint.minimum is not None or constraint.maximum is not None:
        return None
    if constraint.values is not None:
        return attribute, 0, sys.maxsize, frozenset(constraint.values).__contains__
    longest = sys.maxsize if constraint.max_length is None else constraint.max_length
    return attribute, constraint.min_length or 0, longest, constraint.regex and constraint.regex.fullmatch


def bare(hint: Any) -> tuple[Any, Constraint | None]:
    """Return a type without `Annotated` and `| None`, and its constraint."""
    constraint: Constraint | None = None
    while True:
        if get_origin(hint) is Annotated:
            constraint = next((part for part in hint.__metadata__ if isinstance(part, Constraint)), constraint)
            hint = hint.__origin__
        elif get_origin(hint) in (Union, types.UnionType):
            (hint,) = (part for part in get_args(hint) if part is not type(None))
        else:
            return hint, constraint


def _list_check(check_item: Check | None, constraint: Constraint | None) -> Check:
    def check_list(value: list[Any], path: str, violations: list[str]) -> None:
        if constraint is not None:
            secret = constraint.secret
            violations.extend(_violation(value, path, broken, secret=secret) for broken in _broken(value, constraint))
            if constraint.member is not None:
                member = constraint.member
                broken = next((words for item in value if (words := _violations(item, member))), "")
                if broken:
                    words = f"Member must satisfy constraint: [{broken}]"
                    violations.append(_violation(value, path, words, secret=constraint.secret or member.secret))
        if check_item is not None:
            for index, item in enumerate(value, 1):
                check_item(item, f"{path}.{index}.member", violations)

    return check_list


def _violations(value: Any, constraint: Constraint) -> str:
    return ", ".join(_broken(value, constraint))


def _broken(value: Any, constraint: Constraint) -> list[str]:
    """Return AWS's wording for each part of `constraint` that `value` violates."""
    words: list[str] = []
    if isinstance(value, int | float):
        if constraint.minimum is not None and value < constraint.minimum:
            words.append(f"Member must have value greater than or equal to {constraint.minimum}")
        if constraint.maximum is not None and value > constraint.maximum:
            words.append(f"Member must have value less than or equal to {constraint.maximum}")
        return words
    if constraint.max_length is not None and len(value) > constraint.max_length:
        words.append(f"Member must have length less than or equal to {constraint.max_length}")
    if constraint.min_length is not None and len(value) < constraint.min_length:
        words.append(f"Member must have length greater than or equal to {constraint.min_length}")
    if constraint.regex is not None and constraint.regex.fullmatch(value) is None:
        words.append(f"Member must satisfy regular expression pattern: {constraint.pattern}")
    if constraint.values is not None and value not in constraint.values:
        words.append(f"Member must satisfy enum value set: [{', '.join(constraint.values)}]")
    return words


def _violation(value: Any, path: str, broken: str, *, secret: bool) -> str:
    if secret:
        # AWS's message has nothing in place of the value.
        return f"Value at '{path}' failed to satisfy constraint: {broken}"
    if isinstance(value, bytes):
        shown = f"java.nio.HeapByteBuffer[pos=0 lim={len(value)} cap={len(value)}]"
    elif isinstance(value, list):
        shown = f"[{', '.join(str(item) for item in value)}]"
    else:
        shown = str(value)
    return f"Value '{shown[:_MAX_ECHO_LENGTH]}' at '{path}' failed to satisfy constraint: {broken}"


# --- The slow path --------------------------------------------------------------------------------------

_JSON_NAMES = {str: "STRING_VALUE", bool: "a Boolean", int: "NUMBER_VALUE", float: "NUMBER_VALUE"}


def _clean(raw: Any, hint: Any, path: str, violations: list[str]) -> Any:
    """Convert `raw` for `msgspec.convert`: drop nulls, turn whole floats into integers. Collects violations.

    Raises SerializationException for a value of another JSON type.
    """
    hint, constraint = bare(hint)
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        return _clean_struct(raw, hint, path, violations)
    origin = get_origin(hint)
    if origin is list:
        if not isinstance(raw, list):
            raise _wrong_type(path, "a list")
        (item,) = get_args(hint)
        cleaned = [_clean(value, item, f"{path}.{index}.member", violations) for index, value in enumerate(raw, 1)]
        _note(cleaned, hint, constraint, path, violations)
        return cleaned
    if origin is dict:
        if not isinstance(raw, dict) or not all(isinstance(value, str) for value in raw.values()):
            raise _wrong_type(path, "a map of strings")
        _note(raw, hint, constraint, path, violations)
        return raw
    value = _clean_scalar(raw, hint, path)
    _note(value, hint, constraint, path, violations)
    return value


def _clean_struct(raw: Any, struct: type[msgspec.Struct], path: str, violations: list[str]) -> dict[str, Any]:
    if not isinstance(raw, dict):
        raise _wrong_type(path, "a structure")
    cleaned: dict[str, Any] = {}
    for _, wire_name, hint, required in members(struct):
        name = f"{path}.{camel(wire_name)}" if path else camel(wire_name)
        value = raw.get(wire_name)
        if value is not None:
            cleaned[wire_name] = _clean(value, hint, name, violations)
        elif required:
            violations.append(f"Value null at '{name}' failed to satisfy constraint: Member must not be null")
    return cleaned


def _clean_scalar(raw: Any, hint: Any, path: str) -> Any:
    if hint is bytes:
        try:
            return msgspec.convert(raw, bytes)
        except msgspec.ValidationError as exc:
            raise _wrong_type(path, "base64") from exc
    if hint is int and isinstance(raw, float) and raw.is_integer():
        return int(raw)
    if hint is float and isinstance(raw, int) and not isinstance(raw, bool):
        return raw
    if type(raw) is not hint:
        raise _wrong_type(path, _JSON_NAMES.get(hint, "another type"))
    return raw


def _note(value: Any, hint: Any, constraint: Constraint | None, path: str, violations: list[str]) -> None:
    annotated = hint if constraint is None else Annotated[hint, constraint]
    check = _list_check(None, constraint) if isinstance(value, list) else _check_of(annotated)
    if check is not None:
        check(value, path, violations)


def _wrong_type(path: str, wanted: str) -> SerializationException:
    return SerializationException(f"{path or 'The request body'} can not be converted: {wanted} is expected")
