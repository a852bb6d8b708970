"""Domain keys: their role, and the templates of the key ceremony that makes them.

A domain key wraps and unwraps key material, and does nothing else. CKA_TRUSTED, which the security officer alone can
set, makes it the only kind of key that wraps material with CKA_WRAP_WITH_TRUSTED. CKA_UNWRAP_TEMPLATE makes what it
unwraps as guarded as the material was: without it, anyone with the PIN could unwrap the material as a readable object.
CKA_EXTRACTABLE is not in that template: material that moves to another domain key is unwrapped as extractable.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pkcs11 import Attribute, KeyType, ObjectClass

from kmsd.adapters.pkcs11.templates import GUARDED, SECRET_ROLES, ObjectProfile, only
from kmsd.adapters.pkcs11.wrap_mechanisms import KEY_WRAP, PADDED_KEY_WRAPS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kmsd.adapters.pkcs11.cryptoki_types import Value

A = Attribute
DOMAIN_KEY_BYTES = 32
_ROLES = only((A.WRAP, A.UNWRAP), SECRET_ROLES)
_MECHANISMS = tuple(way.mechanism for way in (KEY_WRAP, *PADDED_KEY_WRAPS))
UNWRAP_TEMPLATE: Mapping[int, bool] = {A.SENSITIVE: True, A.WRAP_WITH_TRUSTED: True, A.PRIVATE: True, A.TOKEN: False}
"""Attributes of everything that a domain key unwraps. The template of C_UnwrapKey must repeat them (SoftHSM)."""
_WRAP_TEMPLATE: Mapping[int, bool] = {A.SENSITIVE: True, A.WRAP_WITH_TRUSTED: True}
DOMAIN_KEY = ObjectProfile(
    name="domain key",
    object_class=ObjectClass.SECRET_KEY,
    key_type=KeyType.AES,
    template=GUARDED | {A.TRUSTED: True, A.WRAP_WITH_TRUSTED: True, A.ALLOWED_MECHANISMS: _MECHANISMS} | _ROLES,
    where_allowed={},
    # It was made to be copied: CKA_NEVER_EXTRACTABLE is False. One that another token has handed on was unwrapped:
    # CKA_LOCAL and CKA_ALWAYS_SENSITIVE are False too, and SoftHSM shows no length.
    proofs={},
)


def draft_template() -> dict[int, Value]:
    """Return the template of C_GenerateKey for the session object that becomes a domain key.

    The security officer makes it, who cannot make private objects, so it is public. Nothing of it reaches the disk.
    """
    return {A.VALUE_LEN: DOMAIN_KEY_BYTES, **_draft()}


def unwrapped_draft_template() -> dict[int, Value]:
    """Return the template of C_UnwrapKey for such a session object, of a domain key that another token hands on."""
    return {A.CLASS: int(ObjectClass.SECRET_KEY), A.KEY_TYPE: int(KeyType.AES), **_draft()}


def _draft() -> dict[int, Value]:
    return {
        A.TRUSTED: True,
        A.TOKEN: False,
        A.PRIVATE: False,
        A.SENSITIVE: True,
        A.EXTRACTABLE: True,
        A.WRAP_WITH_TRUSTED: True,
        **{int(role): value for role, value in _ROLES.items()},
        A.ALLOWED_MECHANISMS: _MECHANISMS,
        A.UNWRAP_TEMPLATE: UNWRAP_TEMPLATE,
        A.WRAP_TEMPLATE: _WRAP_TEMPLATE,
    }


def lasting_template(domain_key_id: bytes, label: str) -> dict[int, Value]:
    """Return the template of C_CopyObject, with which the user makes a domain key of such a session object.

    The attributes that are not named here go along, and cannot be changed in the copy.
    """
    return {
        A.TOKEN: True,
        A.PRIVATE: True,
        A.EXTRACTABLE: False,
        A.ID: domain_key_id,
        A.LABEL: label.encode("ascii"),
        # Last: SoftHSM 2.6.1 sets attributes one by one, and refuses any after this one.
        A.MODIFIABLE: False,
    }
