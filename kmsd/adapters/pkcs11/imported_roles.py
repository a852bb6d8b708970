"""Roles of imported objects. They are those of generated ones, without the attributes that only generation gives."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from kmsd.adapters.pkcs11.key_pairs import KEY_PAIRS, MAC_KEYS
from kmsd.adapters.pkcs11.templates import IMPORTED, SEALING, imported

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kmsd.adapters.pkcs11.key_pairs import KeyPair
    from kmsd.adapters.pkcs11.templates import ObjectProfile
    from kmsd.domain.key_import import KeyKind
    from kmsd.domain.key_spec import KeySpec

IMPORTED_MACS: Mapping[KeySpec, ObjectProfile] = {spec: imported(role) for spec, role in MAC_KEYS.items()}
IMPORTED_PAIRS: Mapping[KeyKind, KeyPair] = {
    kind: replace(pair, private=imported(pair.private)) for kind, pair in KEY_PAIRS.items()
}
"""Public halves are created from published values in any case, so that they have the same role."""
_IMPORTED: Mapping[tuple[str, str], ObjectProfile] = {
    **{(SEALING[algorithm].name, "secret"): role for algorithm, role in IMPORTED.items()},
    **{(MAC_KEYS[spec].name, "secret"): role for spec, role in IMPORTED_MACS.items()},
    **{(KEY_PAIRS[kind].private.name, "private"): pair.private for kind, pair in IMPORTED_PAIRS.items()},
}


def imported_variant(role: ObjectProfile) -> ObjectProfile:
    """Return the role of an imported object with this role; the role itself if no such object is imported."""
    return _IMPORTED.get((role.name, role.kind), role)
