"""Recognition of SoftHSM2 and of its tokens' folders, and the memory that it does not free."""

from __future__ import annotations

from pathlib import Path

_MANUFACTURER = "SoftHSM"


def is_softhsm(manufacturer: str) -> bool:
    """True if a token's `manufacturer` (CK_TOKEN_INFO) is SoftHSM2's."""
    return manufacturer.startswith(_MANUFACTURER)


def leaks_objects(manufacturer: str) -> bool:
    """True if the module keeps memory of each object that was destroyed, until C_Finalize.

    SoftHSM 2.6.1 keeps 245 bytes, of token objects too. NSS keeps nothing.
    """
    return is_softhsm(manufacturer)


def token_folders(root: Path, serial: str) -> list[Path]:
    """Return the folders below `root` (`directories.tokendir`) that belong to this serial number: one, or none.

    A folder's name without hyphens ends with the serial number.
    """
    return [path.parent for path in root.glob("*/generation") if fits_folder(path.parent, serial)]


def fits_folder(folder: Path, serial: str) -> bool:
    """True if the token in this folder has this serial number."""
    return folder.name.replace("-", "").endswith(serial)
