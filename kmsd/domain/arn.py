"""Names of resources: Amazon Resource Names, and the forms in which a client may name a key."""

from __future__ import annotations

import re

import msgspec

from kmsd.errors import InvalidArnException, NotFoundException

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_ACCOUNT = re.compile(r"[0-9]{12}")
_ARN_PARTS = 6


class ArnScope(msgspec.Struct, frozen=True):
    """Where this daemon stands: the partition and region that all its ARNs carry."""

    partition: str
    region: str

    def key(self, account: str, key_id: str) -> str:
        """ARN of a key."""
        return f"arn:{self.partition}:kms:{self.region}:{account}:key/{key_id}"

    def alias(self, account: str, name: str) -> str:
        """ARN of an alias; `name` begins with `alias/`."""
        return f"arn:{self.partition}:kms:{self.region}:{account}:{name}"

    def root(self, account: str) -> str:
        """ARN of an account's root principal."""
        return f"arn:{self.partition}:iam::{account}:root"

    def user(self, account: str, name: str) -> str:
        """ARN of a user."""
        return f"arn:{self.partition}:iam::{account}:user/{name}"

    def role(self, account: str, name: str) -> str:
        """ARN of a role."""
        return f"arn:{self.partition}:iam::{account}:role/{name}"

    def assumed_role(self, account: str, role: str, session: str) -> str:
        """ARN of a session of a role."""
        return f"arn:{self.partition}:sts::{account}:assumed-role/{role}/{session}"


class KeyName(msgspec.Struct, frozen=True):
    """A key as a client named it: by id or by alias, in `account`."""

    account: str
    key_id: str = ""
    alias: str = ""
    """`alias/…`; empty where the key is named by its id."""


def parse_key_name(text: str, *, caller_account: str, arns: ArnScope, aliases: bool) -> KeyName:
    """Read a `KeyId` member: key id, key ARN and, where `aliases`, alias name and alias ARN.

    Raises `InvalidArnException` for an ARN of another partition, service or shape, `NotFoundException` for another
    region (`Invalid arn <region>`) and for what cannot be a key (`Invalid keyId '<x>'`), as AWS does.
    """
    account, resource = caller_account, text
    if text.startswith("arn:"):
        account, resource = _parse_arn(text, arns)
        if resource.startswith("key/"):
            resource = resource.removeprefix("key/")
        elif not resource.startswith("alias/"):
            raise InvalidArnException(f"Invalid arn {text}")
    if _UUID.fullmatch(resource):
        return KeyName(account, key_id=resource)
    if aliases and resource.startswith("alias/") and len(resource) > len("alias/"):
        return KeyName(account, alias=resource)
    raise NotFoundException(f"Invalid keyId '{text}'")


def _parse_arn(text: str, arns: ArnScope) -> tuple[str, str]:
    """Account and resource of a KMS ARN of this place."""
    parts = text.split(":", _ARN_PARTS - 1)
    if len(parts) != _ARN_PARTS:
        raise InvalidArnException(f"Invalid arn {text}")
    _, partition, service, region, account, resource = parts
    if partition != arns.partition or service != "kms" or not _ACCOUNT.fullmatch(account):
        raise InvalidArnException(f"Invalid arn {text}")
    if region != arns.region:
        raise NotFoundException(f"Invalid arn {region}")
    return account, resource
