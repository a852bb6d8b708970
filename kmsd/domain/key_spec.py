"""Key specs, key usages and their algorithms (KMS API reference, KeyMetadata)."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


class KeyUsage(StrEnum):
    """The purpose of a key. It never changes."""

    ENCRYPT_DECRYPT = "ENCRYPT_DECRYPT"


class KeySpec(StrEnum):
    """The kind of key material."""

    SYMMETRIC_DEFAULT = "SYMMETRIC_DEFAULT"
    """AES-256: XAES-256-GCM if the token can derive keys, else AES-256-GCM."""


SYMMETRIC_DEFAULT = "SYMMETRIC_DEFAULT"
"""The only encryption algorithm of symmetric keys, and the default of requests that may name one."""
ALGORITHMS: Mapping[KeySpec, tuple[str, ...]] = {KeySpec.SYMMETRIC_DEFAULT: (SYMMETRIC_DEFAULT,)}
"""API names of the algorithms of each key spec."""
