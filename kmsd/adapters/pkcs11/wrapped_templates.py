"""Templates of wrapped material: the session object that is wrapped, and the one that calls use.

CKA_WRAP_WITH_TRUSTED lets only a domain key wrap either of them. The object to be wrapped has no other role. The object
in use is not extractable, and has the one role of its key. Each attribute that the domain key's CKA_UNWRAP_TEMPLATE
demands is given: tokens compare it, and do not add it.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

from msgspec.structs import replace
from pkcs11 import Attribute, ObjectClass

from kmsd.adapters.pkcs11.cryptoki_types import Packed, pack
from kmsd.adapters.pkcs11.key_pairs import MAC_KEYS, pair_of
from kmsd.adapters.pkcs11.roles import attributes_of, role_mismatches
from kmsd.adapters.pkcs11.templates import PRIVATE_ROLES, SEALING, SECRET_ROLES, ObjectProfile, only

if TYPE_CHECKING:
    from kmsd.adapters.pkcs11.cryptoki import RawModule
    from kmsd.adapters.pkcs11.cryptoki_types import Value
    from kmsd.domain.key_spec import KeySpec, KeyUsage
    from kmsd.domain.material import Algorithm, MaterialIdentity, OwnUsage

A = Attribute
_DEMANDED: Mapping[int, Value] = {A.TOKEN: False, A.PRIVATE: True, A.SENSITIVE: True, A.WRAP_WITH_TRUSTED: True}


def profile_of(spec: KeySpec, usage: KeyUsage | OwnUsage, algorithm: Algorithm | None) -> ObjectProfile:
    """Return the role of a key's secret or private object."""
    if algorithm is not None:
        return SEALING[algorithm]
    return pair_of(spec, usage).private if spec.is_asymmetric else MAC_KEYS[spec]


def to_wrap(profile: ObjectProfile, roles: tuple[Attribute, ...] = ()) -> dict[int, Value]:
    """Return the template of the object that a domain key wraps, without length. `roles` only for self-tests."""
    return {**_class_of(profile), **_DEMANDED, A.EXTRACTABLE: True, **_roles(profile, roles)}


@cache
def packed_to_use(spec: KeySpec, usage: KeyUsage | OwnUsage, algorithm: Algorithm | None, *, extras: bool) -> Packed:
    """Return the template `to_use` of a kind of key, packed once."""
    return pack(to_use(profile_of(spec, usage, algorithm), extras=extras))


def to_use(profile: ObjectProfile, *, extras: bool) -> dict[int, Value]:
    """Return the template of the object that calls use; with the attributes that a token may refuse if `extras`."""
    granted = {int(kind): value for kind, value in profile.template.items()}
    optional = {int(kind): value for kind, value in profile.where_allowed.items()} if extras else {}
    template: dict[int, Value] = {**_class_of(profile), **granted, **optional, **_DEMANDED}
    # CKA_MODIFIABLE last: SoftHSM 2.6.1 sets attributes one by one, and refuses any after this one.
    template[A.MODIFIABLE] = template.pop(A.MODIFIABLE)
    return template


class _Demands(NamedTuple):
    """Attributes that an unwrapped object is asked for, and the role that they are compared with."""

    kinds: tuple[Attribute, ...]
    role: ObjectProfile
    shown: list[Mapping[int, bytes]]
    """The last attributes without a mismatch. All keys of a kind show the same."""


@cache
def _demands(spec: KeySpec, usage: KeyUsage | OwnUsage, algorithm: Algorithm | None) -> _Demands:
    profile = profile_of(spec, usage, algorithm)
    template = {**profile.template, A.TOKEN: False, A.WRAP_WITH_TRUSTED: True}
    kinds = (A.CLASS, A.KEY_TYPE, *attributes_of(profile.object_class, profile.key_type), A.WRAP_WITH_TRUSTED)
    return _Demands(kinds, replace(profile, template=template, proofs={}), [])


def mismatches(raw: RawModule, session: int, handle: int, identity: MaterialIdentity) -> list[str]:
    """Return the attributes in which an unwrapped object differs from its role. Raises `CkrError`."""
    kinds, role, shown = _demands(identity.spec, identity.usage, identity.algorithm)
    values = raw.attributes(session, handle, kinds)
    if values in shown:
        return []
    found = role_mismatches(role, values)
    if not found:
        shown[:] = [values]
    return found


def _class_of(profile: ObjectProfile) -> dict[int, Value]:
    return {A.CLASS: int(profile.object_class), A.KEY_TYPE: int(profile.key_type)}


def _roles(profile: ObjectProfile, granted: tuple[Attribute, ...]) -> dict[int, Value]:
    roles = PRIVATE_ROLES if profile.object_class is ObjectClass.PRIVATE_KEY else SECRET_ROLES
    return {int(role): value for role, value in only(granted, roles).items()}
