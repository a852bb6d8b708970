"""Aliases: names for keys, with one namespace per account."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import msgspec

from kmsd.errors import InvalidAliasNameException, ValidationException

if TYPE_CHECKING:
    from datetime import datetime


class Alias(msgspec.Struct, frozen=True):
    """An alias of a key."""

    account: str
    name: str
    """Name with the prefix `alias/`."""
    key_id: str
    created_at: datetime
    updated_at: datetime


PREFIX = "alias/"
_NAME = re.compile(r"alias/[a-zA-Z0-9/_-]+")


def check_prefix(name: str) -> None:
    """Check that a name has the prefix of aliases. Raises ValidationException."""
    if not name.startswith(PREFIX):
        raise ValidationException(
            f'Alias must start with the prefix "{PREFIX}". Please see '
            "https://docs.aws.amazon.com/kms/latest/developerguide/kms-alias.html"
        )


def check_new_name(name: str) -> None:
    """Check that a client may create an alias of this name.

    Raises ValidationException for invalid characters, InvalidAliasNameException for the reserved prefix `alias/aws/`.
    """
    check_prefix(name)
    if not _NAME.fullmatch(name):
        raise ValidationException(f"{name} contains invalid characters for an alias")
    if name.lower().startswith("alias/aws/") or name.lower() == "alias/aws":
        raise InvalidAliasNameException("Alias names that begin with alias/aws/ are reserved.")
