"""Attributes of every object that the adapter creates: one table, one role per object.

Every role that an object does not have is explicitly False: modules differ in their defaults, and python-pkcs11's
defaults grant all roles. Only values from this module, of the attribute's type, may reach a template: python-pkcs11
0.10.1 corrupts the heap when packing fails.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from msgspec.structs import replace
from pkcs11 import Attribute, KeyType, Mechanism, ObjectClass

from kmsd.adapters.pkcs11.cryptoki_types import flag, number, numbers
from kmsd.domain.material import Algorithm

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from kmsd.adapters.pkcs11.cryptoki_types import Value

A = Attribute
OBJECT_ID_LENGTH = 16
P256 = bytes.fromhex("06082a8648ce3d030107")
"""DER of the object identifier prime256v1, the value of CKA_EC_PARAMS."""

_SECRET_ROLES = (A.ENCRYPT, A.DECRYPT, A.SIGN, A.VERIFY, A.WRAP, A.UNWRAP, A.DERIVE)
_PRIVATE_ROLES = (A.DECRYPT, A.SIGN, A.SIGN_RECOVER, A.UNWRAP, A.DERIVE)
_PUBLIC_ROLES = (A.ENCRYPT, A.VERIFY, A.VERIFY_RECOVER, A.WRAP)
_GUARDED: dict[Attribute, Value] = {
    A.TOKEN: True,
    A.PRIVATE: True,
    A.SENSITIVE: True,
    A.EXTRACTABLE: False,
    A.MODIFIABLE: False,
}
_GENERATED_IN_TOKEN: dict[Attribute, Value] = {A.ALWAYS_SENSITIVE: True, A.NEVER_EXTRACTABLE: True}


class ObjectProfile(msgspec.Struct, frozen=True):
    """Role of one kind of object: its creation template, and the attributes that it must show afterwards."""

    name: str
    object_class: ObjectClass
    key_type: KeyType
    template: Mapping[Attribute, Value]
    """Set at creation, and checked afterwards."""
    where_allowed: Mapping[Attribute, Value]
    """Set at creation unless the token refuses the attribute. If the token shows it, it must have this value."""
    proofs: Mapping[Attribute, Value]
    """Not set at creation; checked afterwards."""

    @property
    def kind(self) -> str:
        """`secret`, `private` or `public`."""
        return KINDS[self.object_class]


KINDS = {ObjectClass.SECRET_KEY: "secret", ObjectClass.PRIVATE_KEY: "private", ObjectClass.PUBLIC_KEY: "public"}


def _only(granted: Iterable[Attribute], all_roles: Iterable[Attribute]) -> dict[Attribute, Value]:
    wanted = set(granted)
    return {role: role in wanted for role in all_roles}


def _sealing(name: str, roles: tuple[Attribute, ...], mechanism: Mechanism) -> ObjectProfile:
    return ObjectProfile(
        name=name,
        object_class=ObjectClass.SECRET_KEY,
        key_type=KeyType.AES,
        template=_GUARDED | _only(roles, _SECRET_ROLES),
        where_allowed={A.COPYABLE: False, A.ALLOWED_MECHANISMS: (int(mechanism),)},
        proofs=_GENERATED_IN_TOKEN | {A.VALUE_LEN: 32},
    )


SEALING: Mapping[Algorithm, ObjectProfile] = {
    Algorithm.XAES_256_GCM: _sealing("XAES-256-GCM", (A.DERIVE,), Mechanism.AES_ECB_ENCRYPT_DATA),
    Algorithm.AES_256_GCM: _sealing("AES-256-GCM", (A.ENCRYPT, A.DECRYPT), Mechanism.AES_GCM),
}
SIGNING_PRIVATE = ObjectProfile(
    name="signing",
    object_class=ObjectClass.PRIVATE_KEY,
    key_type=KeyType.EC,
    template=_GUARDED | _only((A.SIGN,), _PRIVATE_ROLES),
    where_allowed={A.COPYABLE: False, A.ALLOWED_MECHANISMS: (int(Mechanism.ECDSA),)},
    proofs=_GENERATED_IN_TOKEN,
)
SIGNING_PUBLIC = ObjectProfile(
    name="signing",
    object_class=ObjectClass.PUBLIC_KEY,
    key_type=KeyType.EC,
    template={A.TOKEN: True, A.PRIVATE: False, A.MODIFIABLE: False} | _only((A.VERIFY,), _PUBLIC_ROLES),
    where_allowed={A.COPYABLE: False},
    proofs={A.EC_PARAMS: P256},
)
# Objects from C_UnwrapKey have CKA_LOCAL, CKA_ALWAYS_SENSITIVE and CKA_NEVER_EXTRACTABLE False (PKCS#11 v2.40 section
# 5.13), and in SoftHSM CKA_VALUE_LEN 0. `kmsd.adapters.pkcs11.key_import` measures their length instead.
IMPORTED: Mapping[Algorithm, ObjectProfile] = {
    algorithm: replace(role, name=f"{role.name} (imported)", proofs={}) for algorithm, role in SEALING.items()
}
_UNWRAPS = (int(Mechanism.RSA_PKCS), int(Mechanism.RSA_PKCS_OAEP))
# Wrapping pairs are copies if the token can copy (`Objects.create_wrapping_pair`), so CKA_COPYABLE is not set.
WRAPPING_PRIVATE = ObjectProfile(
    name="wrapping",
    object_class=ObjectClass.PRIVATE_KEY,
    key_type=KeyType.RSA,
    template=_GUARDED | _only((A.UNWRAP,), _PRIVATE_ROLES),
    where_allowed={A.ALLOWED_MECHANISMS: _UNWRAPS},
    proofs=_GENERATED_IN_TOKEN,
)
WRAPPING_PUBLIC = ObjectProfile(
    name="wrapping",
    object_class=ObjectClass.PUBLIC_KEY,
    key_type=KeyType.RSA,
    template={A.TOKEN: True, A.PRIVATE: False, A.MODIFIABLE: False} | _only((A.WRAP,), _PUBLIC_ROLES),
    where_allowed={},
    proofs={},
)
ROLES: tuple[ObjectProfile, ...] = (
    *(*SEALING.values(), *IMPORTED.values()),
    *(SIGNING_PRIVATE, SIGNING_PUBLIC, WRAPPING_PRIVATE, WRAPPING_PUBLIC),
)

READ_BACK: tuple[Attribute, ...] = tuple(
    dict.fromkeys(
        (
            *(A.CLASS, A.KEY_TYPE, A.ID, A.LABEL, A.LOCAL),
            *(kind for role in ROLES for part in (role.template, role.where_allowed, role.proofs) for kind in part),
        )
    )
)
"""Every attribute that some role requires."""
INTEGER_ATTRIBUTES = frozenset({A.CLASS, A.KEY_TYPE, A.VALUE_LEN})
"""The attributes of `READ_BACK` whose value is a CK_ULONG."""


def session_key(
    key_type: KeyType, length: int, roles: tuple[Attribute, ...], *, readable: bool = False
) -> dict[int, Value]:
    """Return the template of a session object: derived keys, and keys of self-tests."""
    return {
        A.CLASS: int(ObjectClass.SECRET_KEY),
        A.KEY_TYPE: int(key_type),
        A.TOKEN: False,
        A.PRIVATE: True,
        A.SENSITIVE: not readable,
        A.EXTRACTABLE: readable,
        A.VALUE_LEN: length,
        **{int(kind): value for kind, value in _only(roles, _SECRET_ROLES).items()},
    }


def transfer_template(key_type: KeyType, roles: tuple[Attribute, ...] = ()) -> dict[int, Value]:
    """Return the template of imported material before it is stored: a session object that may be wrapped, never read.

    It has no length: SoftHSM refuses CKA_VALUE_LEN in C_UnwrapKey, and NSS truncates longer values to it.
    """
    template = {**session_key(key_type, 0, roles), A.EXTRACTABLE: True}
    del template[A.VALUE_LEN]
    return template


def wrapping_pair(bits: int) -> tuple[dict[int, Value], dict[int, Value]]:
    """Return the public and the private template of an RSA wrapping pair of session objects."""
    public = {**WRAPPING_PUBLIC.template, A.TOKEN: False, A.MODULUS_BITS: bits, A.PUBLIC_EXPONENT: b"\x01\x00\x01"}
    private = {**WRAPPING_PRIVATE.template, A.TOKEN: False}
    return {int(kind): value for kind, value in public.items()}, {int(kind): value for kind, value in private.items()}


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
    if number(values, A.CLASS) != role.object_class or number(values, A.KEY_TYPE) != role.key_type:
        mismatches.append("CKA_CLASS or CKA_KEY_TYPE differs")
    for kind, promised in (*role.template.items(), *role.proofs.items()):
        if not _shows(values, kind, promised):
            mismatches.append(f"CKA_{kind.name} is not {_shown(promised)}")
    for kind, promised in role.where_allowed.items():
        # SoftHSM shows an empty CKA_ALLOWED_MECHANISMS on an object created without it.
        if values.get(kind) and not _shows(values, kind, promised):
            mismatches.append(f"CKA_{kind.name} is not {_shown(promised)}")
    return mismatches


def role_of(values: Mapping[int, bytes]) -> ObjectProfile | None:
    """Return the role that matches the object's class, key type and usage attributes; None if none does."""
    for role in ROLES:
        given = {kind: value for kind, value in role.template.items() if kind in _SECRET_ROLES + _PRIVATE_ROLES}
        if (
            number(values, A.CLASS) == role.object_class
            and number(values, A.KEY_TYPE) == role.key_type
            and all(_shows(values, kind, value) for kind, value in given.items())
        ):
            return _of_origin(role, values)
    return None


def _of_origin(role: ObjectProfile, values: Mapping[int, bytes]) -> ObjectProfile:
    """Return the imported variant of an encryption role if the object's attributes say that its value was imported."""
    algorithm = next((algorithm for algorithm, sealing in SEALING.items() if sealing is role), None)
    from_outside = flag(values, A.ALWAYS_SENSITIVE) is False and flag(values, A.NEVER_EXTRACTABLE) is False
    return IMPORTED[algorithm] if algorithm is not None and from_outside else role


def _shows(values: Mapping[int, bytes], kind: Attribute, promised: Value) -> bool:
    if isinstance(promised, bool):
        shown = flag(values, kind)
        # A usage attribute that the object class does not have counts as False.
        return shown is promised or (shown is None and promised is False and kind in _OPTIONAL_ROLES)
    if isinstance(promised, bytes):
        return values.get(kind) == promised
    if isinstance(promised, tuple):
        return tuple(numbers(values.get(kind, b""))) == promised
    return number(values, kind) == promised


def _shown(value: Value) -> str:
    return value.hex() if isinstance(value, bytes) else str(value)


_OPTIONAL_ROLES = frozenset({A.SIGN_RECOVER, A.VERIFY_RECOVER})
