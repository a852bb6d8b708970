"""Proof that a token enforces what a domain key promises: by behaviour, with session objects of a moment.

A token may accept CKA_TRUSTED, CKA_WRAP_WITH_TRUSTED and CKA_UNWRAP_TEMPLATE, show them, and do nothing about them
(NSS 3.87). Anyone with the PIN then unwraps key material as a readable object. So each attribute is put to the test:
first a call that must succeed, then the same call with the one difference that the token must refuse.
"""

from __future__ import annotations

import ctypes
from functools import partial
from typing import TYPE_CHECKING

from pkcs11 import Attribute, KeyType, Mechanism, ObjectClass

from kmsd.adapters.pkcs11.binding_key import CMAC
from kmsd.adapters.pkcs11.cryptoki_types import (
    CkDerivationData,
    CkGcmParams,
    WrapMechanism,
    attribute_name,
    buffer_of,
    flag,
    number,
)
from kmsd.adapters.pkcs11.domain_key_profile import DOMAIN_KEY, DOMAIN_KEY_BYTES, UNWRAP_TEMPLATE
from kmsd.adapters.pkcs11.key_pairs import WRAPPING_PUBLIC
from kmsd.adapters.pkcs11.return_codes import Ckr, CkrError, ErrorClass
from kmsd.adapters.pkcs11.roles import IDENTITY, attribute_mismatches
from kmsd.adapters.pkcs11.rsa_test_pair import published_key
from kmsd.adapters.pkcs11.templates import session_key
from kmsd.adapters.pkcs11.wrap_mechanisms import KEY_WRAP, RSA_STEP, TRANSPORT
from kmsd.ports import CustodyNotEnforced

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from kmsd.adapters.pkcs11.cryptoki import RawModule
    from kmsd.adapters.pkcs11.cryptoki_types import Value

A = Attribute
_AES_KEY_GEN, _AES_ECB, _AES_GCM = (int(one) for one in (Mechanism.AES_KEY_GEN, Mechanism.AES_ECB, Mechanism.AES_GCM))
_HMAC = int(Mechanism.SHA256_HMAC)
_OAEP, _ECB = RSA_STEP[TRANSPORT], WrapMechanism(_AES_ECB)
_NOT_OF_THE_CALL = frozenset({ErrorClass.SESSION, ErrorClass.LOGIN, ErrorClass.PIN})
_TEXT = bytes(16)
_GCM_BYTES = 32
"""Bytes of a text that GCM can open: a block and the tag."""


class _Extracted(ctypes.Structure):
    """CK_EXTRACT_PARAMS: the first bit."""

    _fields_ = (("bit", ctypes.c_ulong),)


_DERIVATIONS: Mapping[Mechanism, Callable[[], ctypes.Structure]] = {
    Mechanism.EXTRACT_KEY_FROM_KEY: partial(_Extracted, 0),
    Mechanism.CONCATENATE_BASE_AND_DATA: partial(CkDerivationData, b"\0", 1),
    Mechanism.CONCATENATE_DATA_AND_BASE: partial(CkDerivationData, b"\0", 1),
    Mechanism.XOR_BASE_AND_DATA: partial(CkDerivationData, bytes(2), 2),
}
"""Mechanisms that copy bytes of a key into another one, and their parameters for another one of two bytes."""


class _Again(int):
    """The type of an attribute that is in a template twice: for a mapping it is another key."""

    __hash__ = object.__hash__

    def __eq__(self, other: object) -> bool:
        return self is other


def prove_enforcement(raw: RawModule, session: int, domain_key: int) -> None:
    """Prove that material under this domain key leaves the token under a trusted key only, and comes back guarded.

    `domain_key` is the handle of the token object, `session` one of the logged-in user. The proof has a session of its
    own, so that nothing is left of it: SoftHSM 2.6.1 keeps objects whose creation it refused half-way. Raises
    `CustodyNotEnforced`, which names all that the token does not enforce, and `CkrError` if it cannot be asked.
    """
    with raw.administration.further_session(session) as own:
        proof = _Proof(raw, own, domain_key)
        try:
            proof.run()
        finally:
            proof.destroy_token_objects()
    if proof.faults:
        raise CustodyNotEnforced(f"the token does not enforce domain keys: {'; '.join(proof.faults)}")


class _Proof:
    """The objects of one proof, and what the token does not enforce."""

    def __init__(self, raw: RawModule, session: int, domain_key: int) -> None:
        self.raw, self.session, self.domain_key = raw, session, domain_key
        self.faults: list[str] = []
        self._made: list[int] = []

    def run(self) -> None:
        """Make what stands for key material, and go through all proofs. Raises `CkrError`."""
        self._check_attributes()
        guarded: dict[int, Value] = {**session_key(KeyType.AES, DOMAIN_KEY_BYTES, (A.SIGN,)), A.EXTRACTABLE: True}
        try:
            ordinary = self._generate(guarded)
            material = self._generate({**guarded, A.WRAP_WITH_TRUSTED: True})
            untrusted = self._generate(session_key(KeyType.AES, DOMAIN_KEY_BYTES, (A.WRAP,)))
            self.raw.wrap(self.session, KEY_WRAP, untrusted, ordinary)
            wrapped = self.raw.wrap(self.session, KEY_WRAP, self.domain_key, material)
            held = self._unwrap(wrapped, _held_template())
            expected, mac = (self.raw.sign(self.session, key, CMAC, _TEXT) for key in (material, held))
        except CkrError as error:
            if _tells_nothing(error):
                raise
            self.faults.append(f"a key cannot be wrapped, unwrapped and used ({error})")
            return
        if mac != expected:
            self.faults.append("an unwrapped key is not the one that was wrapped")
        self._check_wrapping(material, ordinary, untrusted)
        self._check_unwrapping(wrapped)
        self._check_pieces(wrapped)
        self._check_derivation(wrapped)
        self._check_trust(material, wrapped)
        self._check_domain_key(untrusted)

    # --- the proofs ---------------------------------------------------------------------------------

    def _check_attributes(self) -> None:
        kinds = (*IDENTITY, *DOMAIN_KEY.template)
        shown = self.raw.attributes(self.session, self.domain_key, kinds)
        label = shown.get(A.LABEL, b"").decode("ascii", "replace")
        mismatches = attribute_mismatches(DOMAIN_KEY, shown.get(A.ID, b""), label, shown)
        self.faults += [f"of the domain key, {one}" for one in mismatches]

    def _check_wrapping(self, material: int, ordinary: int, untrusted: int) -> None:
        """CKA_WRAP_WITH_TRUSTED holds, and cannot be cleared."""
        self._refused(
            "a key with CKA_WRAP_WITH_TRUSTED is wrapped under an untrusted AES key",
            lambda: self.raw.wrap(self.session, KEY_WRAP, untrusted, material),
        )
        if (public := self._made_or_none(lambda: self._create(_public_key()))) is not None and self._works(
            lambda: self.raw.wrap(self.session, _OAEP, public, ordinary)
        ):
            self._refused(
                "a key with CKA_WRAP_WITH_TRUSTED is wrapped under an untrusted RSA key",
                lambda: self.raw.wrap(self.session, _OAEP, public, material),
            )
        cleared: dict[int, Value] = {A.WRAP_WITH_TRUSTED: False}
        self._refused("CKA_WRAP_WITH_TRUSTED can be cleared", lambda: self._set(material, cleared))
        self._refused("a copy can lack CKA_WRAP_WITH_TRUSTED", lambda: self._copy(material, cleared))

    def _check_unwrapping(self, wrapped: bytes) -> None:
        """CKA_UNWRAP_TEMPLATE holds: whatever is asked for, what is unwrapped is guarded, or nothing is."""
        good = _held_template()
        readable: dict[int, Value] = {A.SENSITIVE: False, A.EXTRACTABLE: True}
        cases: dict[str, dict[int, Value]] = {
            "without CKA_SENSITIVE": _without(good, A.SENSITIVE),
            "without CKA_WRAP_WITH_TRUSTED": _without(good, A.WRAP_WITH_TRUSTED),
            "without both": _without(good, A.SENSITIVE, A.WRAP_WITH_TRUSTED),
            "with CKA_SENSITIVE false": {**good, A.SENSITIVE: False},
            "as a readable key": {**good, **readable},
            "with CKA_WRAP_WITH_TRUSTED false": {**good, A.WRAP_WITH_TRUSTED: False, A.EXTRACTABLE: True},
            "as a token object": {**good, A.TOKEN: True},
            "as a public object": {**good, A.PRIVATE: False},
            **{
                f"with {attribute_name(kind)} twice, {order}": template
                for kind, value in UNWRAP_TEMPLATE.items()
                for order, template in {
                    "wrong first": {_Again(kind): not value, **good, A.EXTRACTABLE: True},
                    "wrong last": {**good, A.EXTRACTABLE: True, _Again(kind): not value},
                }.items()
            },
            "as CKO_DATA": {A.CLASS: int(ObjectClass.DATA), A.TOKEN: False, A.PRIVATE: True},
        }
        for name, template in cases.items():
            made = self._made_or_none(lambda template=template: self._unwrap(wrapped, template))  # type: ignore[misc]
            if made is not None and not self._is_guarded(made):
                self.faults.append(f"a wrapped key is unwrapped {name}")

    def _check_pieces(self, wrapped: bytes) -> None:
        """A wrapped key is unwrapped as a whole: the value of a piece of one byte is found by trying 256 keys.

        NSS 3.87 cuts a value to CKA_VALUE_LEN.
        """
        template: dict[int, Value] = {**_held_template(), A.KEY_TYPE: int(KeyType.GENERIC_SECRET)}
        piece = self._made_or_none(lambda: self._unwrap(wrapped, {**template, A.VALUE_LEN: 1}))
        if piece is not None and not self._works(lambda: self._require_equal(piece, self._unwrap(wrapped, template))):
            self.faults.append("a wrapped key is unwrapped in pieces")
        self._refused(
            "a key is unwrapped by ECB",
            lambda: self._kept(self.raw.unwrap(self.session, _ECB, self.domain_key, bytes(16), _held_template())),
        )

    def _check_derivation(self, wrapped: bytes) -> None:
        """No mechanism copies some bytes of a wrapped key into a shorter one, whose value is found by trying.

        CKA_UNWRAP_TEMPLATE cannot forbid CKA_DERIVE: XAES-256-GCM and key agreement need it.
        """
        short = {**session_key(KeyType.GENERIC_SECRET, 2, (A.SIGN,)), A.WRAP_WITH_TRUSTED: True}
        for key_type in (KeyType.AES, KeyType.GENERIC_SECRET):
            template: dict[int, Value] = {**_held_template(A.DERIVE), A.KEY_TYPE: int(key_type)}
            base = self._made_or_none(lambda template=template: self._unwrap(wrapped, template))  # type: ignore[misc]
            for mechanism, parameter in _DERIVATIONS.items() if base is not None else ():
                piece = self._made_or_none(
                    lambda base=base, mechanism=mechanism, parameter=parameter: self._kept(  # type: ignore[misc]
                        self.raw.derive(self.session, base, int(mechanism), parameter(), short)
                    )
                )
                if piece is not None and self._length(piece) < DOMAIN_KEY_BYTES:
                    self.faults.append(f"CKM_{mechanism.name} copies a piece of a wrapped {key_type.name} key")

    def _length(self, handle: int) -> int:
        """Return the length of a secret key; 0 if it is not shown."""
        return number(self.raw.attributes(self.session, handle, (A.VALUE_LEN,)), A.VALUE_LEN) or 0

    def _require_equal(self, one: int, other: int) -> None:
        """Raise `CkrError` unless both secrets have the same value."""
        macs = {self.raw.sign(self.session, key, _HMAC, _TEXT) for key in (one, other)}
        if len(macs) != 1:
            raise CkrError(Ckr.KEY_SIZE_RANGE, "CKA_VALUE_LEN")

    def _is_guarded(self, handle: int) -> bool:
        """True if the object shows all of CKA_UNWRAP_TEMPLATE, and not its value."""
        shown = self.raw.attributes(self.session, handle, (*UNWRAP_TEMPLATE, A.VALUE))
        return A.VALUE not in shown and all(flag(shown, kind) is value for kind, value in UNWRAP_TEMPLATE.items())

    def _check_trust(self, material: int, wrapped: bytes) -> None:
        """The user cannot make a trusted key, under which material could leave the token."""
        trusted: dict[int, Value] = {A.TRUSTED: True}
        template: dict[int, Value] = {**session_key(KeyType.AES, DOMAIN_KEY_BYTES, (A.WRAP,)), **trusted}
        unwrapped: dict[int, Value] = {**_held_template(A.WRAP), **trusted}
        attempts: dict[str, tuple[Callable[[], int], WrapMechanism]] = {
            "generates": (lambda: self._generate(template), KEY_WRAP),
            "unwraps": (lambda: self._unwrap(wrapped, unwrapped), KEY_WRAP),
            "creates": (lambda: self._create({**_public_key(), **trusted}), _OAEP),
            "sets": (lambda: self._trusted_later(trusted), KEY_WRAP),
            "copies": (lambda: self._copy(self._untrusted(), trusted), KEY_WRAP),
        }
        for name, (attempt, way) in attempts.items():
            made = self._made_or_none(attempt)
            if made is not None and (self._is_trusted(made) or self._wraps(way, made, material)):
                self.faults.append(f"the user {name} a key with CKA_TRUSTED")

    def _untrusted(self) -> int:
        return self._generate(session_key(KeyType.AES, DOMAIN_KEY_BYTES, (A.WRAP,)))

    def _trusted_later(self, trusted: Mapping[int, Value]) -> int:
        key = self._untrusted()
        self._set(key, trusted)
        return key

    def _is_trusted(self, handle: int) -> bool:
        return flag(self.raw.attributes(self.session, handle, (A.TRUSTED,)), A.TRUSTED) is True

    def _wraps(self, way: WrapMechanism, wrapping: int, key: int) -> bool:
        return self._works(lambda: self.raw.wrap(self.session, way, wrapping, key))

    def _check_domain_key(self, untrusted: int) -> None:
        """The domain key does nothing but wrap and unwrap keys, does not leave the token, and does not change."""
        key, administration = self.domain_key, self.raw.administration
        uses: dict[str, Callable[[], object]] = {
            "encrypts by ECB": lambda: administration.encrypt(self.session, key, _AES_ECB, _TEXT),
            "decrypts by ECB": lambda: administration.decrypt(self.session, key, _AES_ECB, _TEXT),
            "encrypts by GCM": lambda: self._by_gcm(administration.encrypt, _TEXT),
            "decrypts by GCM": lambda: self._by_gcm(administration.decrypt, bytes(_GCM_BYTES)),
            "computes MACs": lambda: self.raw.sign(self.session, key, CMAC, _TEXT),
            "derives keys": lambda: self._derive(key),
            "is wrapped under itself": lambda: self.raw.wrap(self.session, KEY_WRAP, key, key),
            "is wrapped under another key": lambda: self.raw.wrap(self.session, KEY_WRAP, untrusted, key),
        }
        for name, attempt in uses.items():
            self._refused(f"the domain key {name}", attempt)
        changes: dict[str, dict[int, Value]] = {
            "made extractable": {A.EXTRACTABLE: True},
            "given other roles": {A.DECRYPT: True},
            "freed of its CKA_UNWRAP_TEMPLATE": {A.UNWRAP_TEMPLATE: {}},
        }
        for name, change in changes.items():
            self._refused(f"a copy of the domain key can be {name}", lambda change=change: self._copy(key, change))  # type: ignore[misc]
        self._check_unmodifiable(changes)

    def _check_unmodifiable(self, changes: Mapping[str, Mapping[int, Value]]) -> None:
        """Nothing of the domain key can be changed. Harmful changes are tried only if a harmless one is refused."""
        label = self.raw.attributes(self.session, self.domain_key, (A.LABEL,)).get(A.LABEL, b"")
        if self._works(lambda: self._set(self.domain_key, {A.LABEL: label})):
            self.faults.append("the domain key can be modified")
            return
        others: dict[str, Mapping[int, Value]] = {
            "freed of CKA_TRUSTED": {A.TRUSTED: False},
            "freed of CKA_WRAP_WITH_TRUSTED": {A.WRAP_WITH_TRUSTED: False},
            "made modifiable": {A.MODIFIABLE: True},
        }
        for name, change in {**changes, **others}.items():
            self._refused(f"the domain key can be {name}", lambda change=change: self._set(self.domain_key, change))  # type: ignore[misc]

    # --- calls --------------------------------------------------------------------------------------

    def _refused(self, fault: str, attempt: Callable[[], object]) -> None:
        if self._works(attempt):
            self.faults.append(fault)

    @staticmethod
    def _works(attempt: Callable[[], object]) -> bool:
        """True if the token does as it was asked, False if it refuses. Raises `CkrError` if that is not known."""
        try:
            attempt()
        except CkrError as error:
            if _tells_nothing(error):
                raise
            return False
        return True

    @staticmethod
    def _made_or_none(attempt: Callable[[], int]) -> int | None:
        try:
            return attempt()
        except CkrError as error:
            if _tells_nothing(error):
                raise
            return None

    def _kept(self, handle: int) -> int:
        self._made.append(handle)
        return handle

    def _generate(self, template: Mapping[int, Value]) -> int:
        return self._kept(self.raw.generate(self.session, _AES_KEY_GEN, template))

    def _create(self, template: Mapping[int, Value]) -> int:
        return self._kept(self.raw.create(self.session, template))

    def _unwrap(self, wrapped: bytes, template: Mapping[int, Value]) -> int:
        return self._kept(self.raw.unwrap(self.session, KEY_WRAP, self.domain_key, wrapped, template))

    def _copy(self, handle: int, change: Mapping[int, Value]) -> int:
        return self._kept(self.raw.copy(self.session, handle, {A.TOKEN: False, **change}))

    def _set(self, handle: int, change: Mapping[int, Value]) -> None:
        self.raw.administration.set_attributes(self.session, handle, change)

    def _derive(self, key: int) -> int:
        template = session_key(KeyType.AES, DOMAIN_KEY_BYTES, (A.ENCRYPT,))
        return self._kept(self.raw.derive_by_ecb(self.session, key, bytes(DOMAIN_KEY_BYTES), template))

    def _by_gcm(self, crypt: Callable[..., bytes], text: bytes) -> bytes:
        nonce = buffer_of(12)
        parameter = CkGcmParams(ctypes.addressof(nonce), 12, 96, b"proof", 5, 128)
        return crypt(self.session, self.domain_key, _AES_GCM, text, parameter)

    def destroy_token_objects(self) -> None:
        """Destroy what the token should have refused to make. Session objects end with the session."""
        for handle in self._made:
            if flag(self.raw.attributes(self.session, handle, (A.TOKEN,)), A.TOKEN) is not False:
                self.raw.destroy(self.session, handle)


def _tells_nothing(error: CkrError) -> bool:
    """True for errors that are no answer of the token to the call."""
    return error.error_class in _NOT_OF_THE_CALL or error.rv in (Ckr.HOST_MEMORY, Ckr.DEVICE_MEMORY)


def _held_template(role: Attribute = A.SIGN) -> dict[int, Value]:
    """Return the template with which key material is unwrapped for its use."""
    template: dict[int, Value] = {**session_key(KeyType.AES, 0, (role,)), A.WRAP_WITH_TRUSTED: True}
    del template[A.VALUE_LEN]
    return template


def _without(template: Mapping[int, Value], *kinds: Attribute) -> dict[int, Value]:
    return {kind: value for kind, value in template.items() if kind not in kinds}


def _public_key() -> dict[int, Value]:
    """Return the template of a public session object whose private half is published: a key that anyone may make."""
    numbers = published_key().public_key().public_numbers()
    template: dict[int, Value] = {
        A.CLASS: int(ObjectClass.PUBLIC_KEY),
        A.KEY_TYPE: int(KeyType.RSA),
        **{int(kind): value for kind, value in WRAPPING_PUBLIC.template.items()},
        A.TOKEN: False,
        A.MODULUS: numbers.n.to_bytes((numbers.n.bit_length() + 7) // 8, "big"),
        A.PUBLIC_EXPONENT: numbers.e.to_bytes(3, "big"),
    }
    # It must be open to a change of CKA_TRUSTED.
    template[A.MODIFIABLE] = True
    return template
