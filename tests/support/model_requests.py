"""A well-formed request of every operation of KMS, by botocore's model: to see who is refused what."""

from __future__ import annotations

from typing import Any

import botocore.session

from kmsd.services import OPERATIONS

MODEL = botocore.session.get_session().get_service_model("kms")
NAMES = frozenset(operation.name for operation in OPERATIONS if operation.service.scope == "kms")
"""Every operation of KMS that kmsd has."""
_GIVEN = {
    "GranteePrincipal": "arn:aws:iam::000000000000:user/admin",
    "RetiringPrincipal": "arn:aws:iam::000000000000:user/admin",
    "Policy": '{"Version": "2012-10-17", "Statement": []}',
    "PolicyName": "default",
    "Description": "tried",
    "Operations": ["Encrypt"],
    "Tags": [{"TagKey": "tried", "TagValue": "1"}],
    "TagKeys": ["tried"],
}
_NEEDED = {
    "CreateGrant": ("GranteePrincipal",),
    "Decrypt": ("CiphertextBlob",),
    "ReEncrypt": ("CiphertextBlob",),
    "GenerateDataKey": ("KeySpec",),
    "GenerateDataKeyWithoutPlaintext": ("KeySpec",),
    "ListRetirableGrants": ("RetiringPrincipal",),
    "RetireGrant": ("KeyId", "GrantId"),
}
"""Members that the model has as optional, and without which a request is refused for another reason."""


def request_of(name: str, key: str, blob: bytes, alias: str, grant_id: str) -> dict[str, Any]:
    """The members of a request to the key with ARN `key`, which has all the others."""
    given = {**_GIVEN, "CiphertextBlob": blob, "AliasName": alias, "GrantId": grant_id}
    shape = MODEL.operation_model(name).input_shape
    members: dict[str, Any] = {}
    for member in (*shape.required_members, *_NEEDED.get(name, ())):
        kind = shape.members[member]
        if member.endswith("KeyId"):
            members[member] = key
        elif member in given:
            members[member] = given[member]
        elif getattr(kind, "enum", None):
            members[member] = kind.enum[0]
        else:
            members[member] = {"blob": b"x" * 32, "integer": 90, "string": "tried"}[kind.type_name]
    return members


def method_of(kms: Any, name: str) -> Any:
    """The method of a boto3 client that calls an operation."""
    found = {operation: method for method, operation in kms.meta.method_to_api_mapping.items()}
    return getattr(kms, found[name])
