"""Checks shared by operations on symmetric keys: refuse parameters that only apply to other kinds of key."""

from __future__ import annotations

import msgspec

from kmsd.domain.key import Key
from kmsd.errors import UnsupportedOperationException, ValidationException

BYTES_OF_SPEC = {"AES_128": 16, "AES_256": 32}


def refuse(request: msgspec.Struct, *members: str) -> None:
    """Refuse a request that has one of `members`. Raises UnsupportedOperationException with its name.

    The number 0 counts as absent (STS, MinimumSessionTokenSize).
    """
    for member in members:
        if getattr(request, member) not in (None, 0):
            wire_names = dict(zip(request.__struct_fields__, request.__struct_encode_fields__, strict=True))
            raise UnsupportedOperationException(f"The parameter {wire_names[member]} is not supported.")


def data_key_length(key_spec: str | None, number_of_bytes: int | None) -> int:
    """Return the length of a data key in bytes. Raises ValidationException unless exactly one member is given."""
    if (key_spec is None) == (number_of_bytes is None):
        raise ValidationException("Please specify either number of bytes or key spec.")
    return BYTES_OF_SPEC[key_spec] if key_spec is not None else int(number_of_bytes or 0)


def current_material_id(key: Key) -> str | None:
    """Return the `KeyMaterialId` of the material that encrypts new blobs; None for an RSA key."""
    material = key.current_material
    return None if material is None or material.algorithm is None else material.key_material_id
