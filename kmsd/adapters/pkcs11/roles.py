"""Roles of objects: the attributes that each must show, and the role of an object that is found in the token."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pkcs11 import Attribute

from kmsd.adapters.pkcs11.cryptoki_types import flag, number, numbers
from kmsd.adapters.pkcs11.domain_key_profile import DOMAIN_KEY
from kmsd.adapters.pkcs11.imported_roles import imported_variant
from kmsd.adapters.pkcs11.key_pairs import KEY_PAIRS, MAC_KEYS, WRAPPING_PRIVATE, WRAPPING_PUBLIC
from kmsd.adapters.pkcs11.templates import PRIVATE_ROLES, PUBLIC_ROLES, SEALING, SECRET_ROLES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kmsd.adapters.pkcs11.templates import ObjectProfile, Proof

A = Attribute
ROLES: tuple[ObjectProfile, ...] = (
    *SEALING.values(),
    *(half for pair in KEY_PAIRS.values() for half in (pair.private, pair.public)),
    *(WRAPPING_PRIVATE, WRAPPING_PUBLIC, *MAC_KEYS.values(), DOMAIN_KEY),
)
IDENTITY: tuple[Attribute, ...] = (A.CLASS, A.KEY_TYPE, A.ID, A.LABEL, A.LOCAL)
"""Attributes of every object."""
INTEGER_ATTRIBUTES = frozenset({A.CLASS, A.KEY_TYPE, A.VALUE_LEN, A.PARAMETER_SET})
"""The attributes of roles whose value is a CK_ULONG."""
_USAGES = frozenset({*SECRET_ROLES, *PRIVATE_ROLES, *PUBLIC_ROLES, A.ENCAPSULATE, A.DECAPSULATE})
_OPTIONAL_USAGES = frozenset({A.SIGN_RECOVER, A.VERIFY_RECOVER})


def _by_type() -> dict[tuple[int, int], tuple[ObjectProfile, ...]]:
    found: dict[tuple[int, int], tuple[ObjectProfile, ...]] = {}
    for role in ROLES:
        kind = int(role.object_class), int(role.key_type)
        found[kind] = (*found.get(kind, ()), role)
    return found


_BY_TYPE = _by_type()
"""Roles by CKA_CLASS and CKA_KEY_TYPE."""


def attributes_of(object_class: int | None, key_type: int | None) -> tuple[Attribute, ...]:
    """Return every attribute that some role of this class and key type requires."""
    kinds: dict[Attribute, None] = {}
    for role in _BY_TYPE.get((object_class or 0, key_type or 0), ()):
        kinds.update(dict.fromkeys((*role.template, *role.where_allowed, *role.proofs, *role.if_shown)))
    if A.MODULUS_BITS in kinds:
        # Private keys do not have it, and NSS shows it on no key.
        del kinds[A.MODULUS_BITS]
        kinds[A.MODULUS] = None
    return tuple(kinds)


def attribute_mismatches(role: ObjectProfile, object_id: bytes, label: str, values: Mapping[int, bytes]) -> list[str]:
    """Return the attributes of an object that differ from its role; empty if none does.

    CKA_LOCAL is not checked: NSS 3.87 shows False for every token object. CKA_ALWAYS_SENSITIVE and
    CKA_NEVER_EXTRACTABLE, both True, already exclude an import ("C_UnwrapKey … CKA_ALWAYS_SENSITIVE … CKA_FALSE",
    PKCS#11 v2.40 section 5.13).
    """
    mismatches = []
    if values.get(A.ID) != object_id:
        mismatches.append("CKA_ID differs")
    if values.get(A.LABEL) != label.encode("ascii"):
        mismatches.append("CKA_LABEL differs")
    return mismatches + role_mismatches(role, values)


def role_mismatches(role: ObjectProfile, values: Mapping[int, bytes]) -> list[str]:
    """Return the attributes that differ from a role, as `attribute_mismatches`; id and label are not looked at."""
    mismatches = []
    if number(values, A.CLASS) != role.object_class or number(values, A.KEY_TYPE) != role.key_type:
        mismatches.append("CKA_CLASS or CKA_KEY_TYPE differs")
    for kind, promised in (*role.template.items(), *role.proofs.items()):
        if not _shows(values, kind, promised):
            mismatches.append(f"CKA_{kind.name} is not {_shown(promised)}")
    for kind, promised in (*role.where_allowed.items(), *role.if_shown.items()):
        # SoftHSM shows an empty CKA_ALLOWED_MECHANISMS on an object created without it.
        shown = values.get(A.MODULUS if kind == A.MODULUS_BITS else kind)
        if shown and not _shows(values, kind, promised):
            mismatches.append(f"CKA_{kind.name} is not {_shown(promised)}")
    return mismatches


def role_of(values: Mapping[int, bytes]) -> ObjectProfile | None:
    """Return the role that matches the object's class, key type and usage attributes; None if none does.

    Roles that differ only in their curve or length: the one that the object matches best.
    """
    kind = number(values, A.CLASS) or 0, number(values, A.KEY_TYPE) or 0
    fitting = [role for role in _BY_TYPE.get(kind, ()) if _has_usages(role, values)]
    if not fitting:
        return None
    return _of_origin(max(fitting, key=lambda role: _matches(role, values)), values)


def _matches(role: ObjectProfile, values: Mapping[int, bytes]) -> int:
    """Return the number of attributes of the role, besides those of all roles, that the object shows.

    SoftHSM shows no length of an imported secret: the MAC mechanism that it allows is then the only difference.
    """
    distinctive = (*role.proofs.items(), *role.if_shown.items(), *role.where_allowed.items())
    return sum(_shows(values, kind, value) for kind, value in distinctive)


def _of_origin(role: ObjectProfile, values: Mapping[int, bytes]) -> ObjectProfile:
    """Return the imported variant of a role if the object's attributes say that its value was imported."""
    from_outside = flag(values, A.ALWAYS_SENSITIVE) is False and flag(values, A.NEVER_EXTRACTABLE) is False
    return imported_variant(role) if from_outside else role


def _has_usages(role: ObjectProfile, values: Mapping[int, bytes]) -> bool:
    return all(_shows(values, kind, value) for kind, value in role.template.items() if kind in _USAGES)


def _shows(values: Mapping[int, bytes], kind: Attribute, promised: Proof) -> bool:
    if kind == A.MODULUS_BITS:
        return int.from_bytes(values.get(A.MODULUS, b""), "big").bit_length() == promised
    if isinstance(promised, bool):
        shown = flag(values, kind)
        # A usage attribute that the object class does not have counts as False.
        return shown is promised or (shown is None and promised is False and kind in _OPTIONAL_USAGES)
    if isinstance(promised, bytes):
        return values.get(kind) == promised
    if kind == A.ALLOWED_MECHANISMS and isinstance(promised, tuple):
        # A shorter list grants less: keys of earlier releases have one.
        granted = set(numbers(values.get(kind, b"")))
        return bool(granted) and granted <= set(promised)
    if isinstance(promised, tuple):
        return values.get(kind) in promised
    return number(values, kind) == promised


def _shown(value: Proof) -> str:
    return value.hex() if isinstance(value, bytes) else str(value)
