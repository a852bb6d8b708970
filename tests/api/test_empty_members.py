"""Empty lists and maps: for an optional member they mean that it is absent."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from botocore.model import Shape, StructureShape

from kmsd.errors import ValidationException
from kmsd.services import OPERATIONS
from kmsd.wire.protocols import json as shape
from tests.support.botocore_models import fitting, model

EMPTY: dict[str, Any] = {"list": [], "map": {}}


def optional_containers(
    structure: StructureShape, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], Shape]]:
    """Path and shape of each optional list and map of a request, those of nested structures included."""
    for name, member in structure.members.items():
        if member.type_name in EMPTY and name not in structure.required_members:
            yield (*path, name), member
        if member.type_name == "structure":
            yield from optional_containers(member, (*path, name))


CASES = [
    pytest.param(operation, path, member, id=f"{operation.service.scope}-{operation.name}-{'-'.join(path)}")
    for operation in OPERATIONS
    if (request := model(operation.service.scope).operation_model(operation.name).input_shape) is not None
    for path, member in optional_containers(request)
]


def body(operation: Any, path: tuple[str, ...], value: Any) -> bytes:
    """A request with its required members, and `value` at `path`; the structures on the way are there in any case."""
    structure = model(operation.service.scope).operation_model(operation.name).input_shape
    required = [wire_name for _, wire_name, _, is_required in shape.members(operation.request) if is_required]
    request = fitting(structure) | {name: fitting(structure.members[name]) for name in required}
    place = request
    for name in path[:-1]:
        place = place.setdefault(name, {})
    if value is not None:
        place[path[-1]] = value
    return msgspec.json.encode(request)


@pytest.mark.parametrize(("operation", "path", "member"), CASES)
def test_an_empty_optional_member_is_an_absent_one(operation: Any, path: Any, member: Any) -> None:
    """As if it had not been sent; refused where the model gives it a minimum length."""
    sent = body(operation, path, EMPTY[member.type_name])
    without = body(operation, path, None)
    if member.metadata.get("min", 0) > 0:
        with pytest.raises(ValidationException, match="Member must have length greater than or equal to"):
            shape.decode(sent, operation.request)
    else:
        assert shape.decode(sent, operation.request) == shape.decode(without, operation.request)
        # The slow way, which a null elsewhere in the request leads to.
        assert shape.validate(msgspec.json.decode(sent), operation.request) == shape.decode(without, operation.request)


def test_there_are_cases() -> None:
    """The walk over the model finds the members that clients were seen to send empty."""
    found = {(case.values[0].name, case.values[1]) for case in CASES}
    assert {
        ("CreateGrant", ("Constraints", "EncryptionContextSubset")),
        ("CreateGrant", ("GrantTokens",)),
        ("CreateKey", ("Tags",)),
        ("CreateLogGroup", ("tags",)),
        ("AssumeRole", ("PolicyArns",)),
    } <= found
