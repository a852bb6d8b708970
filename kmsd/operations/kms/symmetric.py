"""What the operations on symmetric keys share: checks of members that only newer kinds of key would give sense."""

from __future__ import annotations

import msgspec

from kmsd.domain.key import Key
from kmsd.errors import UnsupportedOperationException, ValidationException

BYTES_OF_SPEC = {"AES_128": 16, "AES_256": 32}


def refuse(request: msgspec.Struct, *members: str) -> None:
    """Raises UnsupportedOperationException naming the first of `members` that the request carries.

    The number 0 asks for nothing (STS, MinimumSessionTokenSize).
    """
    for member in members:
        if getattr(request, member) not in (None, 0):
            wire_names = dict(zip(request.__struct_fields__, request.__struct_encode_fields__, strict=True))
            raise UnsupportedOperationException(f"The parameter {wire_names[member]} is not supported.")


def data_key_length(key_spec: str | None, number_of_bytes: int | None) -> int:
    """Length of a data key in bytes, by whichever of the two members is given. Raises ValidationException."""
    if (key_spec is None) == (number_of_bytes is None):
        raise ValidationException("Please specify either number of bytes or key spec.")
    return BYTES_OF_SPEC[key_spec] if key_spec is not None else int(number_of_bytes or 0)


def current_material_id(key: Key) -> str | None:
    """The `KeyMaterialId` that a blob sealed now carries."""
    return None if key.current_material is None else key.current_material.key_material_id
