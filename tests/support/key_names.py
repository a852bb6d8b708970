"""The ways to name a key."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.support.harness import Harness

PLACE = "arn:aws:kms:us-east-1:000000000000"


ALIASED: dict[str, Callable[[Any, str], Any]] = {
    "encrypt": lambda kms, name: kms.encrypt(KeyId=name, Plaintext=b"x"),
    "describe_key": lambda kms, name: kms.describe_key(KeyId=name),
    "generate_data_key": lambda kms, name: kms.generate_data_key(KeyId=name, KeySpec="AES_128"),
    "generate_data_key_without_plaintext": lambda kms, name: kms.generate_data_key_without_plaintext(
        KeyId=name, KeySpec="AES_128"
    ),
    "list_key_policies": lambda kms, name: kms.list_key_policies(KeyId=name),
}
"""Operations that accept every form of name."""


PLAIN: dict[str, Callable[[Any, str], Any]] = {
    "disable_key": lambda kms, name: kms.disable_key(KeyId=name),
    "enable_key": lambda kms, name: kms.enable_key(KeyId=name),
    "get_key_policy": lambda kms, name: kms.get_key_policy(KeyId=name),
    "get_key_rotation_status": lambda kms, name: kms.get_key_rotation_status(KeyId=name),
    "enable_key_rotation": lambda kms, name: kms.enable_key_rotation(KeyId=name),
    "disable_key_rotation": lambda kms, name: kms.disable_key_rotation(KeyId=name),
    "list_grants": lambda kms, name: kms.list_grants(KeyId=name),
    "list_aliases": lambda kms, name: kms.list_aliases(KeyId=name),
    "list_resource_tags": lambda kms, name: kms.list_resource_tags(KeyId=name),
    "update_key_description": lambda kms, name: kms.update_key_description(KeyId=name, Description="d"),
    "create_grant": lambda kms, name: kms.create_grant(
        KeyId=name, GranteePrincipal="arn:aws:iam::000000000000:user/admin", Operations=["Encrypt"]
    ),
}
"""Operations that accept key id and key ARN only."""


def aliased_key(harness: Harness, alias: str) -> str:
    """A new key with an alias."""
    kms = harness.client()
    key_id = kms.create_key()["KeyMetadata"]["KeyId"]
    kms.create_alias(AliasName=alias, TargetKeyId=key_id)
    return str(key_id)
