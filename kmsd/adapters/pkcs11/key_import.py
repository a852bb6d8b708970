"""Import of key material: unwrap, verify, rewrap and store it. Its value never leaves the token.

An unwrapped object is at first a *carrier*: a sensitive session object that may be wrapped again. Its attributes prove
nothing: SoftHSM shows CKA_VALUE_LEN 0 after C_UnwrapKey, and accepts 128 bits, or 31 bytes, as an AES key. So its
length is measured in two ways. RFC 3394 wrapping under a session key must give 40 bytes, 8 more than its input.
AES-CMAC must work: it refuses the odd lengths that SoftHSM pads when it wraps. Then the wrapped form becomes the token
object, and everything else is destroyed. The MAC is the material's fingerprint.

A client must not be able to distinguish kinds of invalid blobs, not even by time. A blob that cannot be unwrapped is
replaced by a dummy: a random key, generated beforehand in every case, that takes the same path to the same refusal.
"""

from __future__ import annotations

from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import msgspec
from pkcs11 import Attribute, KeyType, Mechanism, ObjectClass

from kmsd.adapters.pkcs11.cryptoki_types import number
from kmsd.adapters.pkcs11.key_pairs import session_pair, wrapping_pair
from kmsd.adapters.pkcs11.return_codes import Ckr, CkrError, ErrorClass
from kmsd.adapters.pkcs11.templates import session_key, transfer_template
from kmsd.adapters.pkcs11.wrap_mechanisms import (
    HYBRID,
    KEY_WRAP,
    RSA_STEP,
    TRANSPORT,
    WrappedValue,
    modulus_and_exponent,
    public_key_of,
)
from kmsd.domain.key_import import MATERIAL_BITS
from kmsd.ports import InvalidLength, UnwrapFailed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kmsd.adapters.pkcs11.cryptoki import RawModule
    from kmsd.adapters.pkcs11.cryptoki_types import Value, WrapMechanism
    from kmsd.adapters.pkcs11.session_pool import Session, SessionPool
    from kmsd.domain.key_import import WrappingAlgorithm

LENGTH = MATERIAL_BITS // 8
TRANSPORT_BITS = 2048
_BLOCK = 8
_WRAPPED_LENGTH = LENGTH + _BLOCK
"""Bytes of wrapped material: "the wrapped key data is n+1 64-bit values" (RFC 3394)."""
_AES_KEY, _CMAC, _RSA_PAIR = (
    int(mechanism) for mechanism in (Mechanism.AES_KEY_GEN, Mechanism.AES_CMAC, Mechanism.RSA_PKCS_KEY_PAIR_GEN)
)
_WRAPPER = session_key(KeyType.AES, LENGTH, (Attribute.WRAP, Attribute.UNWRAP))
_KEK = {k: v for k, v in session_key(KeyType.AES, LENGTH, (Attribute.UNWRAP,)).items() if k != Attribute.VALUE_LEN}
TO_PROVE = transfer_template(KeyType.AES, (Attribute.SIGN,))
"""Template of a carrier whose length is measured."""
_TO_PASS_ON = transfer_template(KeyType.GENERIC_SECRET)
_PUBLIC = {
    int(Attribute.CLASS): int(ObjectClass.PUBLIC_KEY),
    int(Attribute.KEY_TYPE): int(KeyType.RSA),
    **{k: v for k, v in session_pair(wrapping_pair(TRANSPORT_BITS))[0].items() if k != Attribute.MODULUS_BITS},
}


class UnwrappedKey(msgspec.Struct, frozen=True):
    """Result of `ImportSession.verify`, for a valid or an invalid blob."""

    fingerprint: bytes
    kek: int
    wrapped: bytes
    """The material wrapped under `kek`, a key that ends with the import session."""
    failure: UnwrapFailed | InvalidLength | None


class Transport(msgspec.Struct, frozen=True):
    """RSA pair of a login, under which another token wraps material for this one."""

    session: Session
    handle: int
    public_key: bytes


@contextmanager
def import_session(connection: SessionPool, padded_wrap: WrapMechanism | None) -> Iterator[ImportSession]:
    """Open a session; on exit destroy every object created in it, and close it."""
    session = connection.open_session()
    created: list[int] = []
    try:
        yield ImportSession(connection.raw, session, padded_wrap, created)
    finally:
        for handle in reversed(created):
            # C_CloseSession destroys the rest: "all session objects created by the session are destroyed automatically"
            # (PKCS#11 v2.40).
            with suppress(CkrError):
                connection.raw.destroy(session.handle, handle)
        session.close()


class ImportSession:
    """Import of one piece of key material. Methods raise `CkrError` for errors that are not the blob's."""

    def __init__(self, raw: RawModule, session: Session, padded_wrap: WrapMechanism | None, created: list[int]) -> None:
        self.raw = raw
        self.session = session
        self.padded_wrap = padded_wrap
        self._created = created

    def verify(self, key: int, algorithm: WrappingAlgorithm, blob: bytes, mac_message: bytes) -> UnwrappedKey:
        """Unwrap a blob and measure the result, or a dummy key if it cannot be unwrapped."""
        dummy_key = self.generate(TO_PROVE)
        kek = self.generate(_WRAPPER, fixed=True)
        found = self._unwrap(key, algorithm, blob, TO_PROVE)
        subject = dummy_key if found is None else found
        wrapped, fingerprint = self._wrap_to_measure(kek, subject), self._mac(subject, mac_message)
        failure: UnwrapFailed | InvalidLength | None = None
        if found is None:
            failure = UnwrapFailed("the token does not unwrap it")
        elif len(wrapped) != _WRAPPED_LENGTH or not fingerprint:
            failure = _wrong_length()
        return UnwrappedKey(fingerprint, kek, wrapped, failure)

    def rewrap_for(
        self, key: int, algorithm: WrappingAlgorithm, blob: bytes, transport_key: bytes
    ) -> tuple[bytes, UnwrapFailed | InvalidLength | None]:
        """Unwrap a blob and wrap the result under another token's transport key; a dummy key if the blob is invalid."""
        dummy_key = self.generate(_TO_PASS_ON, by=int(Mechanism.GENERIC_SECRET_KEY_GEN))
        recipient = self.recipient(transport_key)
        found = self._unwrap(key, algorithm, blob, _TO_PASS_ON)
        subject = dummy_key if found is None else found
        shown = number(self.raw.attributes(self.session.handle, subject, (Attribute.VALUE_LEN,)), Attribute.VALUE_LEN)
        failure: UnwrapFailed | InvalidLength | None = None
        if found is None:
            failure = UnwrapFailed("the import token does not unwrap it")
        elif shown not in (None, 0, LENGTH):
            failure, subject = _wrong_length(), dummy_key
        try:
            return self.raw.wrap(self.session.handle, RSA_STEP[TRANSPORT], recipient, subject), failure
        except CkrError as error:
            if subject == dummy_key or error.error_class in NOT_OF_THE_KEY:
                raise
            # The token does not reveal the length, and the material is too long for the transport key.
            return self.raw.wrap(self.session.handle, RSA_STEP[TRANSPORT], recipient, dummy_key), _wrong_length()

    # --- steps --------------------------------------------------------------------------------------

    def kept(self, handle: int) -> int:
        """Register an object, so that it is destroyed with the import session. Return its handle."""
        self._created.append(handle)
        return handle

    def recipient(self, transport_key: bytes) -> int:
        """Create an object for another token's transport key, DER SubjectPublicKeyInfo. Return its handle."""
        modulus, exponent = modulus_and_exponent(transport_key)
        public: dict[int, Value] = {**_PUBLIC, Attribute.MODULUS: modulus, Attribute.PUBLIC_EXPONENT: exponent}
        return self.kept(self.raw.create(self.session.handle, public))

    def generate(self, template: dict[int, Value], *, by: int = _AES_KEY, fixed: bool = False) -> int:
        """Generate a session object, of `LENGTH` bytes unless its length is `fixed`. Return its handle."""
        given = template if fixed else {**template, int(Attribute.VALUE_LEN): LENGTH}
        return self.kept(self.raw.generate(self.session.handle, by, given))

    def _unwrap(self, key: int, algorithm: WrappingAlgorithm, blob: bytes, template: dict[int, Value]) -> int | None:
        """Unwrap `blob` into a carrier; None if it cannot be unwrapped."""
        return self.unwrap(self.wrapped_value(key, algorithm, blob), template)

    def wrapped_value(self, key: int, algorithm: WrappingAlgorithm, blob: bytes) -> WrappedValue:
        """Return what C_UnwrapKey takes for the material of a blob: for hybrid algorithms, the RSA step is done."""
        shown = self.raw.attributes(self.session.handle, key, (Attribute.MODULUS,))
        size = len(shown.get(Attribute.MODULUS, b"").lstrip(b"\0"))
        if not size:
            raise CkrError(Ckr.KEY_HANDLE_INVALID, "CKA_MODULUS of the wrapping key")
        if algorithm not in HYBRID:
            return _rsa_value(key, algorithm, blob, size)
        kek = self.unwrap(_rsa_value(key, algorithm, blob[:size], size), _KEK)
        dummy_key = self.generate(_KEK)
        if self.padded_wrap is None:
            raise CkrError(Ckr.MECHANISM_INVALID, "key wrap with padding")
        rest = blob[size:]
        # Padded key wrap has at least two blocks of 8 bytes (RFC 5649 section 4.1).
        whole = len(rest) >= 2 * _BLOCK and len(rest) % _BLOCK == 0
        wrapped = rest if whole else bytes(_WRAPPED_LENGTH)
        is_whole = kek is not None and whole
        return WrappedValue(self.padded_wrap, dummy_key if kek is None else kek, wrapped, is_whole)

    def unwrap(self, wrapped: WrappedValue, template: dict[int, Value]) -> int | None:
        """Unwrap a value into a session object, and return its handle; None if it cannot be unwrapped."""
        try:
            handle = self.raw.unwrap(self.session.handle, wrapped.way, wrapped.key, wrapped.value, template)
        except CkrError as error:
            if not speaks_of_the_blob(error):
                raise
            return None
        self.kept(handle)
        return handle if wrapped.is_whole else None

    def _wrap_to_measure(self, kek: int, subject: int) -> bytes:
        try:
            return self.raw.wrap(self.session.handle, KEY_WRAP, kek, subject)
        except CkrError as error:
            if error.error_class in NOT_OF_THE_KEY:
                raise
            return b""

    def _mac(self, subject: int, mac_message: bytes) -> bytes:
        try:
            return self.raw.sign(self.session.handle, subject, _CMAC, mac_message)
        except CkrError as error:
            # SoftHSM returns MECHANISM_INVALID for an AES key of 31 bytes. The self-test proved that it has AES-CMAC.
            if error.error_class in NOT_OF_THE_KEY:
                raise
            return b""


NOT_OF_THE_KEY = frozenset({ErrorClass.SESSION, ErrorClass.LOGIN, ErrorClass.PIN})
"""Classes of errors that say nothing of the key that was used."""
_NOT_OF_THE_BLOB = NOT_OF_THE_KEY | {ErrorClass.HANDLE}


def _rsa_value(key: int, algorithm: WrappingAlgorithm, blob: bytes, size: int) -> WrappedValue:
    # A blob of a wrong length costs the same decryption as any other.
    padded = blob if len(blob) == size else blob[:size].rjust(size, b"\1")
    return WrappedValue(RSA_STEP[algorithm], key, padded, padded is blob)


def _wrong_length() -> InvalidLength:
    return InvalidLength(f"the key material has not {MATERIAL_BITS} bits")


def speaks_of_the_blob(error: CkrError) -> bool:
    """True if an error of C_UnwrapKey may mean that the blob is invalid; reading the sentinel then checks the token.

    SoftHSM returns GENERAL_ERROR, or MECHANISM_INVALID if the key has no AES length (the self-test proved that it has
    the mechanism). NSS returns ARGUMENTS_BAD for a number not below the modulus, and KEY_SIZE_RANGE.
    """
    return error.error_class not in _NOT_OF_THE_BLOB and error.rv not in (Ckr.HOST_MEMORY, Ckr.DEVICE_MEMORY)


def new_transport(connection: SessionPool) -> Transport:
    """Generate a transport key in a session of its own; it ends with that session."""
    session = connection.open_session()
    try:
        public, private = session_pair(wrapping_pair(TRANSPORT_BITS))
        handle, half = connection.raw.generate_pair(session.handle, _RSA_PAIR, public, private)
        return Transport(session, handle, public_key_of(connection.raw, session.handle, half, TRANSPORT_BITS))
    except BaseException:
        session.close()
        raise
