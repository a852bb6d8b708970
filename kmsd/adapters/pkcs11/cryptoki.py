"""PKCS#11 functions called directly, with their real return codes: the data path, searches and attributes.

python-pkcs11 is not used for these. It calls C_Encrypt twice and passes the queried length, so NSS cannot encrypt with
GCM through it. Its exceptions lose the return code, on which every decision here depends. Its searches build an object
per hit and raise half-way when one of them is malformed. Handles are plain integers, valid in every session of the
process.

ctypes releases the interpreter lock during a call. No function here is safe for two threads on one session: the caller
must hold the session exclusively (`kmsd.adapters.pkcs11.session_pool`).
"""

from __future__ import annotations

import ctypes
from ctypes import POINTER, byref, c_ulong, c_void_p, sizeof
from typing import TYPE_CHECKING, Any

from pkcs11 import Attribute, Mechanism

from kmsd.adapters.pkcs11.cryptoki_administration import Administration
from kmsd.adapters.pkcs11.cryptoki_encapsulation import Encapsulation
from kmsd.adapters.pkcs11.cryptoki_types import (
    SIGNATURES,
    UNAVAILABLE,
    CkAttribute,
    CkDerivationData,
    CkFunctionList,
    CkInitializeArgs,
    CkMechanism,
    CkMechanismInfo,
    CkSessionInfo,
    CkTokenInfo,
    buffer_of,
    mechanism_of,
    pack,
    room,
    with_parameter,
)
from kmsd.adapters.pkcs11.gcm_scratch import IV_BATCH
from kmsd.adapters.pkcs11.return_codes import Ckr, CkrError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from ctypes import Structure

    from kmsd.adapters.pkcs11.cryptoki_types import Template, Value, WrapMechanism
    from kmsd.adapters.pkcs11.gcm_scratch import Scratch

_CKF_OS_LOCKING_OK = 0x2
_CKU_USER = 1
_PARTIAL = (Ckr.OK, Ckr.ATTRIBUTE_SENSITIVE, Ckr.ATTRIBUTE_TYPE_INVALID, Ckr.BUFFER_TOO_SMALL)
_ROOM = 264
"""Bytes of the first buffer for each attribute, if all are short."""
_LONG_ROOM = 4096
"""The same if one may be long. It must be enough: NSS writes a session object's attribute without regard to the length
of the buffer."""
_MAY_BE_LONG = frozenset({Attribute.VALUE, Attribute.MODULUS})
"""Public keys of ML-DSA have up to 2592 bytes (FIPS 204, table 2), RSA moduli 512."""
_WRAPPED_ROOM = 4096
"""Bytes for a wrapped key. The longest is an RSA key of 4096 bits, of some 2400 bytes in PKCS #8."""
_RSA_ROOM = 1024
"""Bytes for a signature or a plaintext of RSA. The longest have 512 bytes."""
_Handles = c_ulong * 256
_SPARE = 64
"""Bytes of output space beyond the plaintext, for tag and padding, so that one call is enough."""


class RawModule:
    """Functions of one loaded module. Every method raises `CkrError` with the module's own code."""

    def __init__(self, path: str) -> None:
        # dlopen counts references: this is the same copy of the module that the binding loads.
        self._library = ctypes.CDLL(path)
        get_list = self._library.C_GetFunctionList
        get_list.argtypes, get_list.restype = (c_void_p,), c_ulong
        pointer = POINTER(CkFunctionList)()
        _check(get_list(byref(pointer)), "C_GetFunctionList")
        functions = pointer.contents
        self._call: dict[str, Any] = {
            name: ctypes.CFUNCTYPE(c_ulong, *arguments)(getattr(functions, name))
            for name, arguments in SIGNATURES.items()
        }
        self._encrypt_init, self._encrypt = self._call["C_EncryptInit"], self._call["C_Encrypt"]
        self._decrypt_init, self._decrypt = self._call["C_DecryptInit"], self._call["C_Decrypt"]
        self._generate_random = self._call["C_GenerateRandom"]
        self._find_objects = self._call["C_FindObjects"]
        self._get_attribute_value = self._call["C_GetAttributeValue"]
        self.encapsulation = Encapsulation(self._library)
        self.administration = Administration(self._call)
        self.objects_made = 0
        """Objects made since C_Initialize, destroyed ones included; without those of ML-KEM. Threads may lose a few."""

    def _made(self, *handles: c_ulong) -> int:
        """Count new objects. Return the first handle."""
        self.objects_made += len(handles)
        return handles[0].value

    def _do(self, function: str, *arguments: Any) -> None:
        _check(self._call[function](*arguments), function)

    # --- module and login ---------------------------------------------------------------------------

    def initialize(self, reserved: bytes | None) -> None:
        """Call C_Initialize with CKF_OS_LOCKING_OK: without it, two threads crash inside SoftHSM."""
        arguments = CkInitializeArgs(flags=_CKF_OS_LOCKING_OK, pReserved=reserved)
        self._do("C_Initialize", byref(arguments))
        self.objects_made = 0

    def finalize(self) -> None:
        """Call C_Finalize. All sessions and handles are invalid afterwards."""
        self._do("C_Finalize", None)

    def login(self, session: int, pin: bytes) -> None:
        """Call C_Login as CKU_USER. The token may count each call as one attempt."""
        self._do("C_Login", session, _CKU_USER, pin, len(pin))

    def session_state(self, session: int) -> int:
        """Return CK_STATE of the session: 3 is a read-write session of the logged-in user."""
        info = CkSessionInfo()
        self._do("C_GetSessionInfo", session, byref(info))
        return int(info.state)

    def token_identity(self, slot: int) -> tuple[str, str]:
        """Return label and serial number of the token that is in the slot now."""
        info = CkTokenInfo()
        self._do("C_GetTokenInfo", slot, byref(info))
        return _text(bytes(info.label)), _text(bytes(info.serialNumber))

    def max_sessions(self, slot: int) -> int | None:
        """Return the number of sessions that the token allows one application; None if unlimited or not stated.

        ulMaxSessionCount may be CK_EFFECTIVELY_INFINITE (0) or CK_UNAVAILABLE_INFORMATION (PKCS#11 v2.40 section 3.2).
        """
        info = CkTokenInfo()
        self._do("C_GetTokenInfo", slot, byref(info))
        most = int(info.counters[0])
        return None if most in {0, c_ulong(-1).value} else most

    def key_sizes(self, slot: int, mechanism: int) -> tuple[int, int] | None:
        """Return the smallest and the largest key size of a mechanism, in its own unit; None if it is not listed."""
        info = CkMechanismInfo()
        try:
            self._do("C_GetMechanismInfo", slot, mechanism, byref(info))
        except CkrError as error:
            if error.rv != Ckr.MECHANISM_INVALID:
                raise
            return None
        return info.ulMinKeySize, info.ulMaxKeySize

    # --- objects ------------------------------------------------------------------------------------

    def find(self, session: int, template: Mapping[int, Value]) -> list[int]:
        """Return the handles of all objects that match. C_FindObjectsFinal is called on errors too."""
        array, _alive = pack(template)
        self._do("C_FindObjectsInit", session, array, len(array))
        found: list[int] = []
        batch, count = _Handles(), c_ulong(0)
        try:
            while True:
                _check(self._find_objects(session, batch, len(batch), byref(count)), "C_FindObjects")
                if not count.value:
                    return found
                found.extend(batch[: count.value])
        finally:
            self._call["C_FindObjectsFinal"](session)

    def attributes(self, session: int, handle: int, kinds: Iterable[int]) -> dict[int, bytes]:
        """Return the attributes that the object has and reveals, as bytes. Others are left out."""
        wanted = list(kinds)
        size = _ROOM if _MAY_BE_LONG.isdisjoint(wanted) else _LONG_ROOM
        array, buffer = room(wanted, size)
        # C_GetAttributeValue processes the whole template. It returns one of these codes if it could not return some
        # attribute, whose length then is CK_UNAVAILABLE_INFORMATION (PKCS#11 v2.40 section 5.7).
        rv = self._get_attribute_value(session, handle, array, len(array))
        if rv not in _PARTIAL:
            raise CkrError(rv, "C_GetAttributeValue")
        values: dict[int, bytes] = {}
        shown = buffer.raw
        for index, attribute in enumerate(array):
            if (length := attribute.ulValueLen) < size:
                values[attribute.type] = shown[index * size : index * size + length]
            elif rv:
                # Too long for the buffer, or the token stopped at the first attribute that it could not return.
                values.update(self._attribute_alone(session, handle, attribute.type))
        return values

    def _attribute_alone(self, session: int, handle: int, kind: int) -> dict[int, bytes]:
        array, _ = room([kind], 0)
        rv = self._get_attribute_value(session, handle, array, 1)
        length = array[0].ulValueLen
        if rv not in _PARTIAL:
            raise CkrError(rv, "C_GetAttributeValue")
        if rv or length == UNAVAILABLE:
            return {}
        array, buffer = room([kind], length)
        _check(self._get_attribute_value(session, handle, array, 1), "C_GetAttributeValue")
        return {kind: buffer.raw}

    def touch(self, session: int, handle: int) -> None:
        """Read CKA_CLASS, which every object has: the cheapest proof that the object exists."""
        value = c_ulong(0)
        attribute = CkAttribute(int(Attribute.CLASS), ctypes.addressof(value), sizeof(value))
        _check(self._get_attribute_value(session, handle, byref(attribute), 1), "C_GetAttributeValue")

    def create(self, session: int, template: Mapping[int, Value]) -> int:
        """Call C_CreateObject, only for public keys and published test values: kmsd knows no other key's value."""
        array, _alive = pack(template)
        handle = c_ulong(0)
        self._do("C_CreateObject", session, array, len(array), byref(handle))
        return self._made(handle)

    def copy(self, session: int, handle: int, template: Mapping[int, Value]) -> int:
        """Call C_CopyObject: create another object with the same value and these attributes changed."""
        array, _alive = pack(template)
        copied = c_ulong(0)
        self._do("C_CopyObject", session, handle, array, len(array), byref(copied))
        return self._made(copied)

    def generate(self, session: int, mechanism: int, template: Template) -> int:
        """Call C_GenerateKey with a mechanism without parameter."""
        array, _alive = pack(template)
        handle = c_ulong(0)
        self._do("C_GenerateKey", session, byref(CkMechanism(mechanism, None, 0)), array, len(array), byref(handle))
        return self._made(handle)

    def generate_pair(self, session: int, mechanism: int, public: Template, private: Template) -> tuple[int, int]:
        """Call C_GenerateKeyPair with a mechanism without parameter. Return the private and the public handle."""
        public_array, _alive = pack(public)
        private_array, _alive_too = pack(private)
        public_handle, private_handle = c_ulong(0), c_ulong(0)
        halves = (public_array, len(public_array), private_array, len(private_array))
        chosen = CkMechanism(mechanism, None, 0)
        self._do("C_GenerateKeyPair", session, byref(chosen), *halves, byref(public_handle), byref(private_handle))
        return self._made(private_handle, public_handle), public_handle.value

    def destroy(self, session: int, handle: int) -> None:
        """Call C_DestroyObject."""
        self._do("C_DestroyObject", session, handle)

    # --- cryptography -------------------------------------------------------------------------------

    def derive_by_ecb(self, session: int, base: int, data: bytes, template: Template) -> int:
        """Call C_DeriveKey with CKM_AES_ECB_ENCRYPT_DATA: the new object's value is AES-ECB of `data` under `base`."""
        parameter = CkDerivationData(data, len(data))
        return self.derive(session, base, int(Mechanism.AES_ECB_ENCRYPT_DATA), parameter, template)

    def derive(self, session: int, base: int, mechanism: int, parameter: Structure, template: Template) -> int:
        """Call C_DeriveKey. Return the handle of the derived object."""
        array, _alive = pack(template)
        handle = c_ulong(0)
        chosen = byref(with_parameter(mechanism, parameter))
        self._do("C_DeriveKey", session, chosen, base, array, len(array), byref(handle))
        return self._made(handle)

    def wrap(self, session: int, way: WrapMechanism, wrapping: int, key: int) -> bytes:
        """Call C_WrapKey. Return the value of `key`, wrapped under `wrapping`."""
        mechanism, _alive = mechanism_of(way)
        out, length = buffer_of(_WRAPPED_ROOM), c_ulong(_WRAPPED_ROOM)
        self._do("C_WrapKey", session, byref(mechanism), wrapping, key, out, byref(length))
        return out.raw[: length.value]

    def wrapped_length(self, session: int, way: WrapMechanism, wrapping: int, key: int) -> int:
        """Call C_WrapKey without a buffer: return the length of the wrapped value, which stays in the token."""
        mechanism, _alive = mechanism_of(way)
        length = c_ulong(0)
        self._do("C_WrapKey", session, byref(mechanism), wrapping, key, None, byref(length))
        return length.value

    def unwrap(self, session: int, way: WrapMechanism, wrapping: int, blob: bytes, template: Template) -> int:
        """Call C_UnwrapKey: create an object from a value wrapped under `wrapping`. The value stays in the token."""
        mechanism, _alive = mechanism_of(way)
        array, _alive_too = pack(template)
        handle = c_ulong(0)
        key_array = (array, len(array), byref(handle))
        self._do("C_UnwrapKey", session, byref(mechanism), wrapping, blob, len(blob), *key_array)
        return self._made(handle)

    def random(self, session: int, count: int) -> bytes:
        """Return `count` bytes from the token's random generator."""
        buffer = buffer_of(1 << count.bit_length())  # few sizes, so that the type cache holds them
        _check(self._generate_random(session, buffer, count), "C_GenerateRandom")
        return buffer.raw[:count]

    def gcm_encrypt(  # noqa: PLR0917 (positional, for speed)
        self, session: int, key: int, iv: bytes | None, plaintext: bytes, aad: bytes, at: Scratch
    ) -> bytes:
        """Encrypt. Return the IV that was used, ciphertext and tag, joined. `iv` None: random from the token.

        The IV is read back from the parameter after the call: a token that generates the IV itself (FIPS 140-3 IG C.H)
        has written its own there, or has appended it to the tag. Raises `CkrError` if that one has another length.
        """
        # SoftHSM 2.6.1 crashes on CKM_AES_GCM with empty associated data.
        if not aad:
            raise ValueError("associated data must not be empty")
        if iv is None:
            iv = at.ivs.pop() if at.ivs else self._draw_ivs(session, at)
        gcm, length = at.gcm, len(plaintext)
        gcm.pAAD, gcm.ulAADLen = aad, len(aad)
        if length + _SPARE > at.capacity:
            at.reserve(length + _SPARE)
        at.view[: at.iv_length] = iv
        at.out_length.value = at.capacity
        rv = self._encrypt_init(session, at.mechanism_ref, key)
        if rv:
            raise CkrError(rv, "C_EncryptInit")
        rv = self._encrypt(session, plaintext, length, at.text_address, at.out_length_ref)
        if rv:
            raise CkrError(rv, "C_Encrypt")
        written = at.out_length.value
        if written != length + at.tag_length:
            return at.with_appended_iv(length)
        return at.view[: at.iv_length + written].tobytes()

    def _draw_ivs(self, session: int, at: Scratch) -> bytes:
        """Return a random IV and store more for later calls: one call to the generator costs the same for many."""
        size = at.iv_length
        if not at.is_given:
            return bytes(size)
        drawn = self.random(session, size * IV_BATCH)
        at.ivs.extend(drawn[start : start + size] for start in range(0, len(drawn), size))
        return at.ivs.pop()

    def gcm_decrypt(  # noqa: PLR0917 (positional, for speed)
        self, session: int, key: int, iv: bytes, ciphertext: bytes, aad: bytes, at: Scratch
    ) -> bytes:
        """Decrypt. Return the plaintext and wipe the buffer that held it. `iv` has the length of `at`."""
        if not aad:
            raise ValueError("associated data must not be empty")
        gcm, length = at.gcm, len(ciphertext)
        gcm.pAAD, gcm.ulAADLen = aad, len(aad)
        if length + _SPARE > at.capacity:
            at.reserve(length + _SPARE)
        at.view[: at.iv_length] = iv
        at.out_length.value = at.capacity
        rv = self._decrypt_init(session, at.mechanism_ref, key)
        if rv:
            raise CkrError(rv, "C_DecryptInit")
        rv = self._decrypt(session, ciphertext, length, at.text_address, at.out_length_ref)
        if rv:
            raise CkrError(rv, "C_Decrypt")
        plaintext = at.view[at.iv_length : at.iv_length + at.out_length.value].tobytes()
        ctypes.memset(at.text_address, 0, at.out_length.value)
        return plaintext

    def decrypt(self, session: int, key: int, way: WrapMechanism, ciphertext: bytes) -> bytes:
        """Decrypt with an RSA key. Return the plaintext and wipe the buffer that held it."""
        mechanism, _alive = mechanism_of(way)
        out, length = buffer_of(_RSA_ROOM), c_ulong(_RSA_ROOM)
        self._do("C_DecryptInit", session, byref(mechanism), key)
        self._do("C_Decrypt", session, ciphertext, len(ciphertext), out, byref(length))
        plaintext = out.raw[: length.value]
        ctypes.memset(out, 0, length.value)
        return plaintext

    def sign(  # noqa: PLR0917 (its own)
        self,
        session: int,
        key: int,
        mechanism: int,
        data: bytes,
        parameter: Structure | None = None,
        length: int = _RSA_ROOM,
    ) -> bytes:
        """Return the signature or MAC of `data`, which has at most `length` bytes."""
        out, written = buffer_of(length), c_ulong(length)
        self._do("C_SignInit", session, byref(with_parameter(mechanism, parameter)), key)
        self._do("C_Sign", session, data, len(data), out, byref(written))
        return out.raw[: written.value]


def _text(padded: bytes) -> str:
    return padded.rstrip(b" \x00").decode("utf-8", "replace")


def _check(rv: int, function: str) -> None:
    if rv:
        raise CkrError(rv, function)
