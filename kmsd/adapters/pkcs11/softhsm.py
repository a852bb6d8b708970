"""Recognition of SoftHSM2, and the memory that it does not free."""

from __future__ import annotations

_MANUFACTURER = "SoftHSM"


def is_softhsm(manufacturer: str) -> bool:
    """True if a token's `manufacturer` (CK_TOKEN_INFO) is SoftHSM2's."""
    return manufacturer.startswith(_MANUFACTURER)


def leaks_objects(manufacturer: str) -> bool:
    """True if the module keeps memory of each object that was destroyed, until C_Finalize.

    SoftHSM 2.6.1 keeps 245 bytes, of token objects too. NSS keeps nothing.
    """
    return is_softhsm(manufacturer)
