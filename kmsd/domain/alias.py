"""Aliases: names for keys, one namespace an account."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import msgspec

from kmsd.errors import InvalidAliasNameException

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


_NAME = re.compile(r"alias/[a-zA-Z0-9/_-]+")


def check_name(name: str) -> None:
    """Raises InvalidAliasNameException unless a client may make an alias of this name.

    "The name must start with the word alias followed by a forward slash"; `alias/aws/` is reserved.
    """
    if not _NAME.fullmatch(name):
        raise InvalidAliasNameException(
            'Alias must start with the prefix "alias/". Please see '
            "the documentation of CreateAlias for its further characters."
        )
    if name.lower().startswith("alias/aws/") or name.lower() == "alias/aws":
        raise InvalidAliasNameException("Alias names that begin with alias/aws/ are reserved.")
