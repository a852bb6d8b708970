"""Binding keys: the AES-192 keys that compute the MACs of wrapped material, themselves wrapped under a domain key.

Key material of kmsd never has 24 bytes. A wrapped binding key therefore has a length that no wrapped material has, and
is refused before the token is asked if it has another: a writer to the database cannot put imported material, whose
value is known, in its place.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pkcs11 import Attribute, KeyType, Mechanism

from kmsd.adapters.pkcs11.cryptoki_types import flag
from kmsd.adapters.pkcs11.return_codes import Ckr, CkrError
from kmsd.adapters.pkcs11.templates import session_key
from kmsd.adapters.pkcs11.wrap_mechanisms import KEY_WRAP
from kmsd.ports import TokenError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kmsd.adapters.pkcs11.cryptoki import RawModule
    from kmsd.adapters.pkcs11.cryptoki_types import Value

A = Attribute
BINDING_KEY_BYTES = 24
WRAPPED_BINDING_KEY_BYTES = BINDING_KEY_BYTES + 8
CMAC = int(Mechanism.AES_CMAC)
_AES_KEY_GEN = int(Mechanism.AES_KEY_GEN)
_LOCKED: Mapping[int, Value] = {A.ALLOWED_MECHANISMS: (CMAC,), A.MODIFIABLE: False}
"""Set if the token allows it. CKA_MODIFIABLE last: SoftHSM refuses any attribute after it."""
_GUARDS: Mapping[int, bool] = {A.SENSITIVE: True, A.EXTRACTABLE: False, A.PRIVATE: True, A.TOKEN: False, A.SIGN: True}
_REFUSALS = frozenset(
    {Ckr.ATTRIBUTE_TYPE_INVALID, Ckr.ATTRIBUTE_VALUE_INVALID, Ckr.ATTRIBUTE_READ_ONLY, Ckr.TEMPLATE_INCONSISTENT}
)


def make_binding_key(raw: RawModule, session: int, domain_key: int) -> bytes:
    """Generate a binding key, and return it wrapped under the domain key: 32 bytes. No object is left.

    Raises `CkrError`, and `TokenError` if the token wraps it to another length.
    """
    template = {
        **session_key(KeyType.AES, BINDING_KEY_BYTES, ()),
        A.EXTRACTABLE: True,
        A.WRAP_WITH_TRUSTED: True,
    }
    key = raw.generate(session, _AES_KEY_GEN, template)
    try:
        wrapped = raw.wrap(session, KEY_WRAP, domain_key, key)
    finally:
        raw.destroy(session, key)
    _check_length(wrapped)
    return wrapped


def open_binding_key(raw: RawModule, session: int, domain_key: int, wrapped: bytes) -> int:
    """Unwrap a binding key into a session object that computes CMACs only. Return its handle.

    Raises `CkrError`, and `TokenError` if it has not 32 bytes or the object is not guarded.
    """
    _check_length(wrapped)
    template: dict[int, Value] = {**session_key(KeyType.AES, 0, (A.SIGN,)), A.WRAP_WITH_TRUSTED: True}
    # SoftHSM refuses it in C_UnwrapKey. Key wrap of 32 bytes holds 24 (RFC 3394).
    del template[A.VALUE_LEN]
    try:
        key = raw.unwrap(session, KEY_WRAP, domain_key, wrapped, {**template, **_LOCKED})
    except CkrError as error:
        if error.rv not in _REFUSALS:
            raise
        key = raw.unwrap(session, KEY_WRAP, domain_key, wrapped, template)
    shown = raw.attributes(session, key, _GUARDS)
    if any(flag(shown, kind) is not value for kind, value in _GUARDS.items()):
        raw.destroy(session, key)
        raise TokenError("the token does not guard a binding key that it has unwrapped")
    return key


def _check_length(wrapped: bytes) -> None:
    if len(wrapped) != WRAPPED_BINDING_KEY_BYTES:
        raise TokenError(f"a wrapped binding key has {WRAPPED_BINDING_KEY_BYTES} bytes, not {len(wrapped)}")
