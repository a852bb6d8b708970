"""Attributes of the objects that the adapter creates: one role per object.

Every role that an object does not have is explicitly False: modules differ in their defaults, and python-pkcs11's
defaults grant all roles. Only values from this module, of the attribute's type, may reach a template: python-pkcs11
0.10.1 corrupts the heap when packing fails. Key pairs and MAC keys are in `key_pairs`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from msgspec.structs import replace
from pkcs11 import Attribute, KeyType, Mechanism, ObjectClass

from kmsd.domain.material import Algorithm

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from kmsd.adapters.pkcs11.cryptoki_types import Value

    Proof = Value | tuple[bytes, ...]

A = Attribute
OBJECT_ID_LENGTH = 16
SECRET_ROLES = (A.ENCRYPT, A.DECRYPT, A.SIGN, A.VERIFY, A.WRAP, A.UNWRAP, A.DERIVE)
PRIVATE_ROLES = (A.DECRYPT, A.SIGN, A.SIGN_RECOVER, A.UNWRAP, A.DERIVE)
PUBLIC_ROLES = (A.ENCRYPT, A.VERIFY, A.VERIFY_RECOVER, A.WRAP)
GUARDED: dict[Attribute, Value] = {
    A.TOKEN: True,
    A.PRIVATE: True,
    A.SENSITIVE: True,
    A.EXTRACTABLE: False,
    A.MODIFIABLE: False,
}
GENERATED_IN_TOKEN: dict[Attribute, Value] = {A.ALWAYS_SENSITIVE: True, A.NEVER_EXTRACTABLE: True}


class ObjectProfile(msgspec.Struct, frozen=True):
    """Role of one kind of object: its creation template, and the attributes that it must show afterwards."""

    name: str
    object_class: ObjectClass
    key_type: KeyType
    template: Mapping[Attribute, Value]
    """Set at creation, and checked afterwards."""
    where_allowed: Mapping[Attribute, Value]
    """Set at creation unless the token refuses the attribute. If the token shows it, it must have this value."""
    proofs: Mapping[Attribute, Proof]
    """Not set at creation; checked afterwards. Of a tuple of bytes, one must be shown."""
    if_shown: Mapping[Attribute, Proof] = {}
    """Not set at creation. If the token shows it, it must have this value."""
    is_imported: bool = False
    """True for objects whose value came from outside."""

    @property
    def kind(self) -> str:
        """`secret`, `private` or `public`."""
        return KINDS[self.object_class]


KINDS = {ObjectClass.SECRET_KEY: "secret", ObjectClass.PRIVATE_KEY: "private", ObjectClass.PUBLIC_KEY: "public"}


def only(granted: Iterable[Attribute], all_roles: Iterable[Attribute]) -> dict[Attribute, Value]:
    """Return every role of an object class, True if it is granted."""
    wanted = set(granted)
    return {role: role in wanted for role in all_roles}


def _sealing(name: str, roles: tuple[Attribute, ...], mechanism: Mechanism) -> ObjectProfile:
    return ObjectProfile(
        name=name,
        object_class=ObjectClass.SECRET_KEY,
        key_type=KeyType.AES,
        template=GUARDED | only(roles, SECRET_ROLES),
        where_allowed={A.COPYABLE: False, A.ALLOWED_MECHANISMS: (int(mechanism),)},
        proofs=GENERATED_IN_TOKEN | {A.VALUE_LEN: 32},
    )


_AES_256_GCM = _sealing("AES-256-GCM", (A.ENCRYPT, A.DECRYPT), Mechanism.AES_GCM)
SEALING: Mapping[Algorithm, ObjectProfile] = {
    Algorithm.XAES_256_GCM: _sealing("XAES-256-GCM", (A.DERIVE,), Mechanism.AES_ECB_ENCRYPT_DATA),
    Algorithm.AES_256_GCM: _AES_256_GCM,
    Algorithm.AES_256_GCM_IV16: _AES_256_GCM,
}


def imported(role: ObjectProfile) -> ObjectProfile:
    """Return the role of an object that has this role, but whose value came from outside."""
    return replace(role, name=f"{role.name} (imported)", proofs={}, is_imported=True)


# Objects from C_UnwrapKey have CKA_LOCAL, CKA_ALWAYS_SENSITIVE and CKA_NEVER_EXTRACTABLE False (PKCS#11 v2.40 section
# 5.13), and in SoftHSM CKA_VALUE_LEN 0. `kmsd.adapters.pkcs11.key_import` measures their length instead.
IMPORTED: Mapping[Algorithm, ObjectProfile] = {algorithm: imported(role) for algorithm, role in SEALING.items()}


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
        **{int(kind): value for kind, value in only(roles, SECRET_ROLES).items()},
    }


def transfer_template(key_type: KeyType, roles: tuple[Attribute, ...] = ()) -> dict[int, Value]:
    """Return the template of imported material before it is stored: a session object that may be wrapped, never read.

    It has no length: SoftHSM refuses CKA_VALUE_LEN in C_UnwrapKey, and NSS truncates longer values to it.
    """
    template = {**session_key(key_type, 0, roles), A.EXTRACTABLE: True}
    del template[A.VALUE_LEN]
    return template
