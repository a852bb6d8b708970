"""Attestation: a statement on a key pair, as the token shows it, signed by the audit key.

The statement is text of lines `name: value`. All lines but the last are signed, with ECDSA and SHA-256.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING

from kmsd.domain.key import Key
from kmsd.domain.material import Material
from kmsd.ports import TokenError, TokenInfo

if TYPE_CHECKING:
    from kmsd.ports import Token

FIRST_LINE = "kmsd key attestation 1"
"""Format, and its version. No text of the audit trail that the same key signs begins with it."""
ATTRIBUTES = ("CKA_LOCAL", "CKA_SENSITIVE", "CKA_ALWAYS_SENSITIVE", "CKA_EXTRACTABLE", "CKA_NEVER_EXTRACTABLE")
"""Attributes that say whether the value came from outside, or could leave the token."""


async def statement(token: Token, key: Key, material: Material, now: datetime) -> str:
    """Return the text to be signed: key, public key, token, and the private half's attributes, read now.

    Raises `TokenError` if the token's public key, or that of wrapped material, is not the stored one.
    """
    if material.wrapped is not None:
        await token.custody.require_bound(material.wrapped)
    elif await token.public_key(material.material_id) != material.public_key:
        raise TokenError("the public key in the token is not the one that was stored when the pair was created")
    attributes = await token.attributes(material.reference)
    lines = {**_of_key(key, material), **_of_token(token.info), **_of_attributes(attributes), "Attested": _time(now)}
    return "".join(f"{line}\n" for line in (FIRST_LINE, *(f"{name}: {value}" for name, value in lines.items())))


def _of_key(key: Key, material: Material) -> Mapping[str, str]:
    return {
        "Key": key.arn,
        "KeySpec": key.spec.value,
        "KeyUsage": key.usage.value,
        "Created": _time(key.created_at),
        "PublicKey": base64.b64encode(material.public_key).decode(),
        **_of_custody(material),
    }


def _of_custody(material: Material) -> Mapping[str, str]:
    if material.wrapped is None:
        return {"ObjectId": material.material_id.hex()}
    return {"MaterialId": material.material_id.hex(), "WrappedUnder": material.wrapped.domain_key_id.hex()}


def _of_token(info: TokenInfo) -> Mapping[str, str]:
    return {
        "TokenLabel": info.label,
        "TokenSerial": info.serial,
        "TokenManufacturer": info.manufacturer,
        "TokenModel": info.model,
    }


def _of_attributes(attributes: Mapping[str, bool | bytes | int]) -> Mapping[str, str]:
    """Return what the token shows. An attribute that it does not show is said to be unknown."""
    granted = sorted(name for name, value in attributes.items() if value is True and name in _ROLES)
    shown = {name: str(attributes.get(name, "unknown")).lower() for name in ATTRIBUTES}
    return {**shown, "Roles": ", ".join(granted)}


_ROLES = {f"CKA_{role}" for role in ("SIGN", "SIGN_RECOVER", "DECRYPT", "UNWRAP", "DERIVE", "DECAPSULATE")}


def _time(instant: datetime) -> str:
    return f"{instant:%Y-%m-%dT%H:%M:%SZ}"
