"""Amazon Resource Names, and the forms in which a client may name a key."""

from __future__ import annotations

import re

import msgspec

from kmsd.errors import InvalidArnException, NotFoundException

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_ACCOUNT = re.compile(r"[0-9]{12}")
_ARN_PARTS = 6


class ArnScope(msgspec.Struct, frozen=True):
    """Partition and region of all ARNs of this daemon."""

    partition: str
    region: str

    def key(self, account: str, key_id: str) -> str:
        """Return the ARN of a key."""
        return f"arn:{self.partition}:kms:{self.region}:{account}:key/{key_id}"

    def alias(self, account: str, name: str) -> str:
        """Return the ARN of an alias. `name` includes the prefix `alias/`."""
        return f"arn:{self.partition}:kms:{self.region}:{account}:{name}"

    def root(self, account: str) -> str:
        """Return the ARN of an account's root principal."""
        return f"arn:{self.partition}:iam::{account}:root"

    def user(self, account: str, name: str) -> str:
        """Return the ARN of a user."""
        return f"arn:{self.partition}:iam::{account}:user/{name}"

    def role(self, account: str, name: str) -> str:
        """Return the ARN of a role."""
        return f"arn:{self.partition}:iam::{account}:role/{name}"

    def identity_provider(self, account: str, name: str) -> str:
        """Return the ARN of an issuer of web tokens. `name` is its URL without scheme."""
        return f"arn:{self.partition}:iam::{account}:oidc-provider/{name}"

    def assumed_role(self, account: str, role: str, session: str) -> str:
        """Return the ARN of a session of a role."""
        return f"arn:{self.partition}:sts::{account}:assumed-role/{role}/{session}"


class KeyName(msgspec.Struct, frozen=True):
    """A key in `account`, named by id or by alias."""

    account: str
    key_id: str = ""
    alias: str = ""
    """`alias/…`; empty if the key is named by its id."""


def parse_key_name(text: str, *, caller_account: str, arns: ArnScope, aliases: bool) -> KeyName:
    """Parse a `KeyId` member: key id or key ARN, and with `aliases` also alias name or alias ARN.

    Raises as AWS does: `InvalidArnException` for an ARN of another partition, service or form. `NotFoundException` for
    another region (`Invalid arn <region>`) and for text that cannot name a key (`Invalid keyId '<x>'`).
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
    """Return account and resource of a KMS ARN in this partition and region."""
    parts = text.split(":", _ARN_PARTS - 1)
    if len(parts) != _ARN_PARTS:
        raise InvalidArnException(f"Invalid arn {text}")
    _, partition, service, region, account, resource = parts
    if partition != arns.partition or service != "kms" or not _ACCOUNT.fullmatch(account):
        raise InvalidArnException(f"Invalid arn {text}")
    if region != arns.region:
        raise NotFoundException(f"Invalid arn {region}")
    return account, resource
