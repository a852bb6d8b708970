"""Key material from outside: unwrapped, proven, passed on and taken in, without its value ever leaving the token.

An unwrapped object is at first a *carrier*: a session object, sensitive, that may be wrapped again. What attributes say
of it is no proof (SoftHSM shows CKA_VALUE_LEN 0 after C_UnwrapKey, and takes 128 bits, or 31 bytes, for an AES key). So
its length is measured by wrapping it under a key of the session by RFC 3394, whose output is 8 bytes longer than its
input: 40 bytes, and by AES-CMAC, which refuses the odd lengths that SoftHSM pads when it wraps. Then the wrapped form
becomes the lasting object, and all else is destroyed. The MAC is the material's fingerprint.

Kinds of bad blobs must not be told apart, not by time either: what cannot be unwrapped is replaced by a decoy, a random
key that was made beforehand in every case, and goes the same way to the same refusal.
"""

from __future__ import annotations

from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import msgspec
from pkcs11 import Attribute, KeyType, Mechanism, ObjectClass

from kmsd.adapters.pkcs11.cryptoki_types import number
from kmsd.adapters.pkcs11.return_codes import Ckr, CkrError, ErrorClass
from kmsd.adapters.pkcs11.templates import session_key, transfer_template, wrapping_pair
from kmsd.adapters.pkcs11.wrap_mechanisms import (
    HYBRID,
    KEY_WRAP,
    RSA_STEP,
    TRANSPORT,
    modulus_and_exponent,
    public_key_of,
)
from kmsd.domain.key_import import MATERIAL_BITS
from kmsd.ports import InvalidLength, UnwrapFailed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kmsd.adapters.pkcs11.cryptoki import RawModule, WrapMechanism
    from kmsd.adapters.pkcs11.cryptoki_types import Value
    from kmsd.adapters.pkcs11.session_pool import Session, SessionPool
    from kmsd.domain.key_import import WrappingAlgorithm

LENGTH = MATERIAL_BITS // 8
TRANSPORT_BITS = 2048
_BLOCK = 8
_WRAPPED_LENGTH = LENGTH + _BLOCK
"""RFC 3394: "the wrapped key data is n+1 64-bit values"."""
_AES_KEY, _CMAC, _RSA_PAIR = (
    int(mechanism) for mechanism in (Mechanism.AES_KEY_GEN, Mechanism.AES_CMAC, Mechanism.RSA_PKCS_KEY_PAIR_GEN)
)
_WRAPPER = session_key(KeyType.AES, LENGTH, (Attribute.WRAP, Attribute.UNWRAP))
_KEK = {k: v for k, v in session_key(KeyType.AES, LENGTH, (Attribute.UNWRAP,)).items() if k != Attribute.VALUE_LEN}
TO_PROVE = transfer_template(KeyType.AES, (Attribute.SIGN,))
"""The template of a carrier that is measured."""
_TO_PASS_ON = transfer_template(KeyType.GENERIC_SECRET)
_PUBLIC = {
    int(Attribute.CLASS): int(ObjectClass.PUBLIC_KEY),
    int(Attribute.KEY_TYPE): int(KeyType.RSA),
    **{k: v for k, v in wrapping_pair(TRANSPORT_BITS)[0].items() if k != Attribute.MODULUS_BITS},
}


class UnwrappedKey(msgspec.Struct, frozen=True):
    """What was established of a carrier, whether or not the blob was good."""

    fingerprint: bytes
    kek: int
    wrapped: bytes
    """The material under `kek`, a key that ends with the visit."""
    failure: UnwrapFailed | InvalidLength | None


class Transport(msgspec.Struct, frozen=True):
    """The RSA pair of a login by which it receives material from another token."""

    session: Session
    handle: int
    public_key: bytes


@contextmanager
def import_session(connection: SessionPool, padded_wrap: WrapMechanism | None) -> Iterator[ImportSession]:
    """A session that is closed in the end, with every object that was made in it."""
    session = connection.open_session()
    made: list[int] = []
    try:
        yield ImportSession(connection.raw, session, padded_wrap, made)
    finally:
        for handle in reversed(made):
            # What cannot be destroyed singly, the end of the session destroys.
            with suppress(CkrError):
                connection.raw.destroy(session.handle, handle)
        session.close()


class ImportSession:
    """One piece of key material on its way. Methods raise `CkrError` where it is not the blob that is bad."""

    def __init__(self, raw: RawModule, session: Session, padded_wrap: WrapMechanism | None, made: list[int]) -> None:
        self.raw = raw
        self.session = session
        self._padded_wrap = padded_wrap
        self._made = made

    def verify(self, key: int, algorithm: WrappingAlgorithm, blob: bytes, mac_message: bytes) -> UnwrappedKey:
        """Unwrap a blob and measure what came out of it; a decoy, if nothing did."""
        dummy_key = self._generated(TO_PROVE)
        kek = self._generated(_WRAPPER, fixed=True)
        found = self._unwrapped(key, algorithm, blob, TO_PROVE)
        subject = dummy_key if found is None else found
        wrapped, fingerprint = self._measured(kek, subject), self._mac(subject, mac_message)
        failure: UnwrapFailed | InvalidLength | None = None
        if found is None:
            failure = UnwrapFailed("the token does not unwrap it")
        elif len(wrapped) != _WRAPPED_LENGTH or not fingerprint:
            failure = _wrong_length()
        return UnwrappedKey(fingerprint, kek, wrapped, failure)

    def rewrap_for(
        self, key: int, algorithm: WrappingAlgorithm, blob: bytes, transport_key: bytes
    ) -> tuple[bytes, UnwrapFailed | InvalidLength | None]:
        """What a blob holds, wrapped under the transport key of another token; a decoy, if it holds nothing good."""
        dummy_key = self._generated(_TO_PASS_ON, by=int(Mechanism.GENERIC_SECRET_KEY_GEN))
        modulus, exponent = modulus_and_exponent(transport_key)
        public: dict[int, Value] = {**_PUBLIC, Attribute.MODULUS: modulus, Attribute.PUBLIC_EXPONENT: exponent}
        recipient = self.kept(self.raw.create(self.session.handle, public))
        found = self._unwrapped(key, algorithm, blob, _TO_PASS_ON)
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
            if subject == dummy_key or error.error_class in _NOT_OF_THE_KEY:
                raise
            # Longer than the transport key can carry, of a token that shows no lengths.
            return self.raw.wrap(self.session.handle, RSA_STEP[TRANSPORT], recipient, dummy_key), _wrong_length()

    # --- steps --------------------------------------------------------------------------------------

    def kept(self, handle: int) -> int:
        """`handle`, of an object that ends with the visit."""
        self._made.append(handle)
        return handle

    def _generated(self, template: dict[int, Value], *, by: int = _AES_KEY, fixed: bool = False) -> int:
        given = template if fixed else {**template, int(Attribute.VALUE_LEN): LENGTH}
        return self.kept(self.raw.generate(self.session.handle, by, given))

    def _unwrapped(self, key: int, algorithm: WrappingAlgorithm, blob: bytes, template: dict[int, Value]) -> int | None:
        """The carrier of what `blob` holds; None if it cannot be unwrapped."""
        shown = self.raw.attributes(self.session.handle, key, (Attribute.MODULUS,))
        size = len(shown.get(Attribute.MODULUS, b"").lstrip(b"\0"))
        if not size:
            raise CkrError(Ckr.KEY_HANDLE_INVALID, "CKA_MODULUS of the wrapping key")
        if algorithm not in HYBRID:
            return self._rsa_unwrapped(key, algorithm, blob, size, template)
        kek = self._rsa_unwrapped(key, algorithm, blob[:size], size, _KEK)
        dummy_key = self._generated(_KEK)
        if self._padded_wrap is None:
            raise CkrError(Ckr.MECHANISM_INVALID, "key wrap with padding")
        rest = blob[size:]
        # RFC 5649 section 4.1: at least two blocks of 8 bytes.
        whole = len(rest) >= 2 * _BLOCK and len(rest) % _BLOCK == 0
        wrapped = rest if whole else bytes(_WRAPPED_LENGTH)
        found = self._tried(self._padded_wrap, dummy_key if kek is None else kek, wrapped, template)
        return found if kek is not None and whole else None

    def _rsa_unwrapped(
        self, key: int, algorithm: WrappingAlgorithm, blob: bytes, size: int, template: dict[int, Value]
    ) -> int | None:
        # A blob of a length that cannot be right costs the same decryption as the others.
        fitting = blob if len(blob) == size else blob[:size].rjust(size, b"\1")
        found = self._tried(RSA_STEP[algorithm], key, fitting, template)
        return found if fitting is blob else None

    def _tried(self, way: WrapMechanism, key: int, blob: bytes, template: dict[int, Value]) -> int | None:
        try:
            return self.kept(self.raw.unwrap(self.session.handle, way, key, blob, template))
        except CkrError as error:
            if not speaks_of_the_blob(error):
                raise
            return None

    def _measured(self, kek: int, subject: int) -> bytes:
        try:
            return self.raw.wrap(self.session.handle, KEY_WRAP, kek, subject)
        except CkrError as error:
            if error.error_class in _NOT_OF_THE_KEY:
                raise
            return b""

    def _mac(self, subject: int, mac_message: bytes) -> bytes:
        try:
            return self.raw.sign(self.session.handle, subject, _CMAC, mac_message)
        except CkrError as error:
            # SoftHSM says MECHANISM_INVALID of an AES key of 31 bytes; that it has the mechanism has been probed.
            if error.error_class in _NOT_OF_THE_KEY:
                raise
            return b""


_NOT_OF_THE_KEY = frozenset({ErrorClass.SESSION, ErrorClass.LOGIN, ErrorClass.PIN})
_NOT_OF_THE_BLOB = _NOT_OF_THE_KEY | {ErrorClass.HANDLE}


def _wrong_length() -> InvalidLength:
    return InvalidLength(f"the key material has not {MATERIAL_BITS} bits")


def speaks_of_the_blob(error: CkrError) -> bool:
    """Whether an error of C_UnwrapKey may mean that the blob is bad; then the sentinel says whether the token is well.

    SoftHSM says GENERAL_ERROR, and MECHANISM_INVALID where an AES key has no size of AES; that it has the mechanism has
    been probed. NSS says ARGUMENTS_BAD of a number not below the modulus, and KEY_SIZE_RANGE.
    """
    return error.error_class not in _NOT_OF_THE_BLOB and error.rv not in (Ckr.HOST_MEMORY, Ckr.DEVICE_MEMORY)


def new_transport(connection: SessionPool) -> Transport:
    """A transport key that lives as long as its session, which is its own."""
    session = connection.open_session()
    try:
        public, private = wrapping_pair(TRANSPORT_BITS)
        handle, half = connection.raw.generate_pair(session.handle, _RSA_PAIR, public, private)
        return Transport(session, handle, public_key_of(connection.raw, session.handle, half, TRANSPORT_BITS))
    except BaseException:
        session.close()
        raise
