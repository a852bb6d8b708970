"""Messages for errors in kmsd.toml: an unknown setting, a value of another type."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, get_args

import msgspec

from kmsd.domain.near import did_you_mean

_TYPES = {
    "array": "a list",
    "bool": "true or false",
    "float": "a number",
    "int": "a whole number",
    "null": "nothing",
    "object": "a table",
    "str": "a text in quotes",
}
"""Words for an operator, by msgspec's name of a type."""
_OTHER_TYPE = re.compile(r"Expected `([^`]+)`, got `([^`]+)`(?: - (?:at|key in) `\$\.?([^`]*)`)?")
_MISSING = re.compile(r"Object missing required field `([^`]+)`(?: - at `\$\.?([^`]*)`)?")
_ELSEWHERE = re.compile(r"(.*) - at `\$\.?([^`]*)`", re.DOTALL)


def unknown_settings(raw: Mapping[str, Any], whole: type[msgspec.Struct]) -> list[str]:
    """Return a sentence for each setting, or table, in `raw` that `whole` does not have."""
    return list(_unknown(raw, whole))


def _unknown(raw: Mapping[str, Any], whole: type[msgspec.Struct]) -> Iterator[str]:
    tables = {name: table for name, types in _types(whole).items() for table in types}
    for name, value in raw.items():
        table = tables.get(name)
        if name not in _types(whole):
            yield f"there is no {_called(name, value)}{_hint(name, value, '', whole, tables)}"
        elif table is not None:
            for one in value if isinstance(value, list) else [value]:
                yield from _unknown_in(one, name, table, {**tables, "": whole})


def _unknown_in(
    raw: object, name: str, table: type[msgspec.Struct], tables: Mapping[str, type[msgspec.Struct]]
) -> Iterator[str]:
    """Yield a sentence for each setting in table `name`, one of several of that name, that it does not have."""
    for inner, written in raw.items() if isinstance(raw, dict) else ():
        if inner not in _types(table):
            yield f"[{name}] has no {_called(inner, written)}{_hint(inner, written, name, table, tables)}"


def _called(name: str, value: object) -> str:
    return f"table [{name}]" if isinstance(value, dict) else f"setting {name}"


def _hint(
    name: str, value: object, place: str, here: type[msgspec.Struct], tables: Mapping[str, type[msgspec.Struct]]
) -> str:
    """Suggest the table that has this setting, or else the most similar name here."""
    if not isinstance(value, dict):
        for table, struct in tables.items():
            if table != place and name in _types(struct) and not _types(struct)[name]:
                return f"; it belongs under [{table}]" if table else "; it belongs above the first table"
    known = _types(here)
    return did_you_mean(name, [one for one in known if bool(known[one]) == isinstance(value, dict)])


def _types(struct: type[msgspec.Struct]) -> Mapping[str, list[type[msgspec.Struct]]]:
    """Return the members of a struct by their written names, each with the tables that it may be."""
    return {
        field.encode_name: [
            one
            for one in (field.type, *get_args(field.type))
            if isinstance(one, type) and issubclass(one, msgspec.Struct)
        ]
        for field in msgspec.structs.fields(struct)
    }


def of_validation(text: str) -> str:
    """Return msgspec's error in the words of kmsd.toml."""
    if found := _OTHER_TYPE.fullmatch(text):
        wanted = " or ".join(_TYPES.get(one.strip(), one.strip()) for one in found[1].split("|"))
        return f"{found[3] or 'the file'} must be {wanted}, and is {_TYPES.get(found[2], found[2])}"
    if found := _MISSING.fullmatch(text):
        return f"{found[1]} is missing{f' under [{found[2]}]' if found[2] else ''}"
    if found := _ELSEWHERE.fullmatch(text):
        return f"{found[2]} is wrong: {found[1]}"
    return text
