"""botocore's models of today's API, as an oracle for declarations."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any, get_args, get_origin

import botocore.session
import msgspec
from botocore.model import ServiceModel, Shape, StructureShape
from botocore.validate import ParamValidator

from kmsd.wire.protocols import json as declarations


@cache
def model(service: str) -> ServiceModel:
    """The model of `kms`, `logs` or `sts`."""
    return botocore.session.get_session().get_service_model(service)


def fitting(shape: Shape) -> Any:
    """A value that breaks no constraint of `shape`."""
    limits = shape.metadata
    match shape.type_name:
        case "string":
            if "enum" in limits:
                return limits["enum"][0]
            length = max(limits.get("min", 1), 1)
            return "arn:aws:kms:us-east-1:000000000000:key/x" if length == 20 else "a" * length
        case "blob":
            return b"a" * max(limits.get("min", 1), 1)
        case "integer" | "long":
            return 7 if shape.name == "PendingWindowInDaysType" else limits.get("min", 1)
        case "boolean":
            return False
        case "timestamp":
            return 2_000_000_000
        case "list":
            return [fitting(shape.member)]
        case "map":
            return {"a": "b"}
        case _:
            return {name: fitting(member) for name, member in shape.members.items() if name in shape.required_members}


def members_of_model(structure: StructureShape | None, path: str = "") -> Iterator[str]:
    """`Tags`, `Tags.TagKey`: every member of a structure, and of those within it, also within lists."""
    for name, member in () if structure is None else structure.members.items():
        yield f"{path}{name}"
        while member.type_name == "list":
            member = member.member  # noqa: PLW2901 (down to what the list holds)
        if member.type_name == "structure":
            yield from members_of_model(member, f"{path}{name}.")


def members_of_declaration(struct: type[msgspec.Struct], path: str = "") -> Iterator[str]:
    """As `members_of_model`, of a request or response as kmsd declares it."""
    for _, name, hint, _ in declarations.members(struct):
        yield f"{path}{name}"
        within = declarations.bare(hint)[0]
        while get_origin(within) is list:
            within = declarations.bare(get_args(within)[0])[0]
        if isinstance(within, type) and issubclass(within, msgspec.Struct):
            yield from members_of_declaration(within, f"{path}{name}.")


MAY_BE_EMPTY = ("Description", "TagValue")
"""AWS sends the description of a key and the value of a tag also where they are empty."""


def empty_strings(answer: Any, name: str = "") -> Iterator[str]:
    """The members of an answer that hold an empty string, which AWS leaves out instead."""
    if isinstance(answer, dict):
        for member, value in answer.items():
            yield from empty_strings(value, member)
    elif isinstance(answer, list):
        for value in answer:
            yield from empty_strings(value, name)
    elif answer == "" and name not in MAY_BE_EMPTY:
        yield name


def assert_fit(answers: dict[str, Any], service: ServiceModel) -> None:
    """Answers by operation, as boto3 has parsed them, validate against the output shapes, and have no other member."""
    validator = ParamValidator()
    for name, parsed in answers.items():
        shape = service.operation_model(name).output_shape
        answer = {member: value for member, value in parsed.items() if member != "ResponseMetadata"}
        if shape is None:
            assert answer == {}, name
            continue
        report = validator.validate(answer, shape)
        assert not report.has_errors(), f"{name}: {report.generate_report()}"
        assert set(answer) <= set(shape.members), name
