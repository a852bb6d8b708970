"""Requests that break one constraint."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from botocore.model import Shape

from tests.support.botocore_models import fitting

BAD_PATTERN = ("\u0100", "Ā*", " ", "*", "a b", "{}", "A" * 64)


def breaking(shape: Shape) -> Iterator[tuple[str, Any]]:
    """Values that each break one constraint, with the constraint's name."""
    limits = shape.metadata
    if shape.type_name in ("string", "blob"):
        unit: Any = "a" if shape.type_name == "string" else b"a"
        if limits.get("min", 0) > 0:
            yield "min", unit[:0]
        if "max" in limits:
            yield "max", unit * (limits["max"] + 1)
        if "enum" in limits:
            yield "enum", "NO_SUCH_VALUE"
        if "pattern" in limits:
            pattern = re.sub(r"\\u([0-9A-F]{4})", lambda found: chr(int(found[1], 16)), limits["pattern"])
            bad = next(
                (
                    text
                    for text in BAD_PATTERN
                    if re.fullmatch(pattern, text, re.ASCII) is None
                    and limits.get("min", 0) <= len(text) <= limits.get("max", 9999)
                ),
                None,
            )
            if bad is not None:
                yield "pattern", bad
    elif shape.type_name in ("integer", "long"):
        if "min" in limits:
            yield "min", limits["min"] - 1
        if "max" in limits:
            yield "max", limits["max"] + 1
    elif shape.type_name == "list":
        if "max" in limits:
            yield "max", [fitting(shape.member)] * (limits["max"] + 1)
        for name, value in breaking(shape.member):
            yield f"member {name}", [value]
    elif shape.type_name == "structure":
        for name, member in shape.members.items():
            for kind, value in breaking(member):
                yield f"{name} {kind}", {**fitting(shape), name: value}
        for name in shape.required_members:
            yield f"{name} missing", {key: value for key, value in fitting(shape).items() if key != name}


WRONG_TYPES = {
    "string": 5,
    "blob": "not base64!",
    "integer": "5",
    "boolean": "yes",
    "list": {},
    "map": [],
    "structure": [],
    "timestamp": "tomorrow-ish",
}
