"""Aliases: names for keys, one namespace an account."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import msgspec

from kmsd.errors import InvalidAliasNameException, ValidationException

if TYPE_CHECKING:
    from datetime import datetime


class Alias(msgspec.Struct, frozen=True):
    """One alias."""

    account: str
    name: str
    """With its prefix `alias/`."""
    key_id: str
    created_at: datetime
    updated_at: datetime


PREFIX = "alias/"
_NAME = re.compile(r"alias/[a-zA-Z0-9/_-]+")


def check_prefix(name: str) -> None:
    """Raises ValidationException for what is no name of an alias at all."""
    if not name.startswith(PREFIX):
        raise ValidationException(
            f'Alias must start with the prefix "{PREFIX}". Please see '
            "https://docs.aws.amazon.com/kms/latest/developerguide/kms-alias.html"
        )


def check_new_name(name: str) -> None:
    """Raises unless a client may make an alias of this name.

    ValidationException for a name of other characters, InvalidAliasNameException for one below `alias/aws/`, which is
    reserved.
    """
    check_prefix(name)
    if not _NAME.fullmatch(name):
        raise ValidationException(f"{name} contains invalid characters for an alias")
    if name.lower().startswith("alias/aws/") or name.lower() == "alias/aws":
        raise InvalidAliasNameException("Alias names that begin with alias/aws/ are reserved.")
