"""ctypes declarations of PKCS#11: structures, function signatures, templates and the values read from them."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from ctypes import Structure, c_char, c_char_p, c_ubyte, c_ulong, c_void_p, sizeof
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from pkcs11 import Attribute

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_CKZ_DATA_SPECIFIED = 1
UNAVAILABLE = c_ulong(-1).value
"""CK_UNAVAILABLE_INFORMATION: the length of an attribute that the object does not have or does not reveal."""


class CkVersion(Structure):
    """CK_VERSION."""

    _fields_ = (("major", c_ubyte), ("minor", c_ubyte))


class CkInitializeArgs(Structure):
    """CK_C_INITIALIZE_ARGS."""

    _fields_ = (
        ("CreateMutex", c_void_p),
        ("DestroyMutex", c_void_p),
        ("LockMutex", c_void_p),
        ("UnlockMutex", c_void_p),
        ("flags", c_ulong),
        ("pReserved", c_char_p),
    )


class CkAttribute(Structure):
    """CK_ATTRIBUTE."""

    _fields_ = (("type", c_ulong), ("pValue", c_void_p), ("ulValueLen", c_ulong))


class CkMechanism(Structure):
    """CK_MECHANISM."""

    _fields_ = (("mechanism", c_ulong), ("pParameter", c_void_p), ("ulParameterLen", c_ulong))


class CkGcmParams(Structure):
    """CK_GCM_PARAMS, with ulIvBits: the text of PKCS#11 v2.40 lacks it, the headers of modules have it."""

    _fields_ = (
        ("pIv", c_void_p),
        ("ulIvLen", c_ulong),
        ("ulIvBits", c_ulong),
        ("pAAD", c_char_p),
        ("ulAADLen", c_ulong),
        ("ulTagBits", c_ulong),
    )


class CkDerivationData(Structure):
    """CK_KEY_DERIVATION_STRING_DATA, the parameter of CKM_AES_ECB_ENCRYPT_DATA."""

    _fields_ = (("pData", c_char_p), ("ulLen", c_ulong))


class CkOaepParams(Structure):
    """CK_RSA_PKCS_OAEP_PARAMS, without label."""

    _fields_ = (
        ("hashAlg", c_ulong),
        ("mgf", c_ulong),
        ("source", c_ulong),
        ("pSourceData", c_void_p),
        ("ulSourceDataLen", c_ulong),
    )


class CkPssParams(Structure):
    """CK_RSA_PKCS_PSS_PARAMS."""

    _fields_ = (("hashAlg", c_ulong), ("mgf", c_ulong), ("sLen", c_ulong))


class CkEcdhParams(Structure):
    """CK_ECDH1_DERIVE_PARAMS."""

    _fields_ = (
        ("kdf", c_ulong),
        ("ulSharedDataLen", c_ulong),
        ("pSharedData", c_char_p),
        ("ulPublicDataLen", c_ulong),
        ("pPublicData", c_char_p),
    )


class CkMechanismInfo(Structure):
    """CK_MECHANISM_INFO."""

    _fields_ = (("ulMinKeySize", c_ulong), ("ulMaxKeySize", c_ulong), ("flags", c_ulong))


class CkSessionInfo(Structure):
    """CK_SESSION_INFO."""

    _fields_ = (("slotID", c_ulong), ("state", c_ulong), ("flags", c_ulong), ("ulDeviceError", c_ulong))


class CkTokenInfo(Structure):
    """CK_TOKEN_INFO. `counters` holds its ten session and memory counts; the first is ulMaxSessionCount."""

    _fields_ = (
        ("label", c_ubyte * 32),
        ("manufacturerID", c_ubyte * 32),
        ("model", c_ubyte * 16),
        ("serialNumber", c_ubyte * 16),
        ("flags", c_ulong),
        ("counters", c_ulong * 10),
        ("hardwareVersion", CkVersion),
        ("firmwareVersion", CkVersion),
        ("utcTime", c_ubyte * 16),
    )


# CK_FUNCTION_LIST (PKCS#11 v2.40 section 3.6): the version, then these pointers in this order.
_FUNCTION_ORDER = """
C_Initialize C_Finalize C_GetInfo C_GetFunctionList C_GetSlotList C_GetSlotInfo C_GetTokenInfo C_GetMechanismList
C_GetMechanismInfo C_InitToken C_InitPIN C_SetPIN C_OpenSession C_CloseSession C_CloseAllSessions C_GetSessionInfo
C_GetOperationState C_SetOperationState C_Login C_Logout C_CreateObject C_CopyObject C_DestroyObject C_GetObjectSize
C_GetAttributeValue C_SetAttributeValue C_FindObjectsInit C_FindObjects C_FindObjectsFinal C_EncryptInit C_Encrypt
C_EncryptUpdate C_EncryptFinal C_DecryptInit C_Decrypt C_DecryptUpdate C_DecryptFinal C_DigestInit C_Digest
C_DigestUpdate C_DigestKey C_DigestFinal C_SignInit C_Sign C_SignUpdate C_SignFinal C_SignRecoverInit C_SignRecover
C_VerifyInit C_Verify C_VerifyUpdate C_VerifyFinal C_VerifyRecoverInit C_VerifyRecover C_DigestEncryptUpdate
C_DecryptDigestUpdate C_SignEncryptUpdate C_DecryptVerifyUpdate C_GenerateKey C_GenerateKeyPair C_WrapKey C_UnwrapKey
C_DeriveKey C_SeedRandom C_GenerateRandom C_GetFunctionStatus C_CancelFunction C_WaitForSlotEvent
"""


class CkFunctionList(Structure):
    """CK_FUNCTION_LIST."""

    _fields_ = (("version", CkVersion), *((name, c_void_p) for name in _FUNCTION_ORDER.split()))


SIGNATURES: dict[str, tuple[Any, ...]] = {
    "C_Initialize": (c_void_p,),
    "C_Finalize": (c_void_p,),
    "C_GetTokenInfo": (c_ulong, c_void_p),
    "C_GetMechanismInfo": (c_ulong, c_ulong, c_void_p),
    "C_CloseAllSessions": (c_ulong,),
    "C_OpenSession": (c_ulong, c_ulong, c_void_p, c_void_p, c_void_p),
    "C_CloseSession": (c_ulong,),
    "C_GetSessionInfo": (c_ulong, c_void_p),
    "C_Login": (c_ulong, c_ulong, c_char_p, c_ulong),
    "C_Logout": (c_ulong,),
    "C_CreateObject": (c_ulong, c_void_p, c_ulong, c_void_p),
    "C_CopyObject": (c_ulong, c_ulong, c_void_p, c_ulong, c_void_p),
    "C_DestroyObject": (c_ulong, c_ulong),
    "C_GetAttributeValue": (c_ulong, c_ulong, c_void_p, c_ulong),
    "C_SetAttributeValue": (c_ulong, c_ulong, c_void_p, c_ulong),
    "C_FindObjectsInit": (c_ulong, c_void_p, c_ulong),
    "C_FindObjects": (c_ulong, c_void_p, c_ulong, c_void_p),
    "C_FindObjectsFinal": (c_ulong,),
    "C_EncryptInit": (c_ulong, c_void_p, c_ulong),
    "C_Encrypt": (c_ulong, c_char_p, c_ulong, c_void_p, c_void_p),
    "C_DecryptInit": (c_ulong, c_void_p, c_ulong),
    "C_Decrypt": (c_ulong, c_char_p, c_ulong, c_void_p, c_void_p),
    "C_SignInit": (c_ulong, c_void_p, c_ulong),
    "C_Sign": (c_ulong, c_char_p, c_ulong, c_void_p, c_void_p),
    "C_GenerateKey": (c_ulong, c_void_p, c_void_p, c_ulong, c_void_p),
    "C_GenerateKeyPair": (c_ulong, c_void_p, c_void_p, c_ulong, c_void_p, c_ulong, c_void_p, c_void_p),
    "C_WrapKey": (c_ulong, c_void_p, c_ulong, c_ulong, c_void_p, c_void_p),
    "C_UnwrapKey": (c_ulong, c_void_p, c_ulong, c_char_p, c_ulong, c_void_p, c_ulong, c_void_p),
    "C_DeriveKey": (c_ulong, c_void_p, c_ulong, c_void_p, c_ulong, c_void_p),
    "C_GenerateRandom": (c_ulong, c_void_p, c_ulong),
}

Value = bool | int | bytes | tuple[int, ...] | Mapping[int, bool]
"""Value of an attribute. A mapping is that of CKA_WRAP_TEMPLATE or CKA_UNWRAP_TEMPLATE: a template in itself."""


# A ctypes array type refers to itself, and the result of `cast` and its source refer to each other. Types and casts
# made for each call would be kilobytes of garbage that only the collector frees, and a worker collects every few hours.
# So types are cached (few sizes occur), and `addressof` is used instead of `cast`.
KEPT_TYPES = 256


@lru_cache(maxsize=KEPT_TYPES)
def _attributes(count: int) -> type[ctypes.Array[CkAttribute]]:
    return CkAttribute * count


@lru_cache(maxsize=KEPT_TYPES)
def _bytes(size: int) -> type[ctypes.Array[c_char]]:
    return c_char * size


def buffer_of(size: int) -> ctypes.Array[c_char]:
    """Return a buffer of `size` zero bytes that a call may write to."""
    return _bytes(size)()


class Packed(NamedTuple):
    """Template that was packed once, for calls that many threads make: a module only reads it."""

    array: ctypes.Array[CkAttribute]
    alive: list[Any]


Template = Mapping[int, Value] | Packed


def pack(template: Template) -> Packed:
    """Return a CK_ATTRIBUTE array, and the buffers that must stay alive while it is used.

    Raises `TypeError` for a value that has none of the types of `Value`.
    """
    if isinstance(template, Packed):
        return template
    array = _attributes(len(template))()
    alive: list[Any] = []
    for index, (kind, value) in enumerate(template.items()):
        buffer = _buffer(value, alive)
        alive.append(buffer)
        array[index].type = kind
        array[index].pValue = ctypes.addressof(buffer) if buffer is not None else None
        array[index].ulValueLen = sizeof(buffer) if buffer is not None else 0
    return Packed(array, alive)


def _buffer(value: Value, alive: list[Any]) -> ctypes.Array[Any] | None:
    """Return a buffer with the value; None for an empty one. Adds the buffers of a nested template to `alive`."""
    if isinstance(value, Mapping):
        nested, buffers = pack(value)
        alive.extend(buffers)
        return nested
    data = _packed(value)
    return _bytes(len(data)).from_buffer_copy(data) if data else None


def _packed(value: Value) -> bytes:
    if type(value) is bool:
        return b"\x01" if value else b"\x00"
    if type(value) is bytes:
        return value
    if isinstance(value, int):
        return bytes(c_ulong(int(value)))
    if type(value) is tuple:
        return pack_numbers(value)
    raise TypeError(f"a template takes bool, int, bytes, a tuple of int or a template, not {type(value).__name__}")


def room(kinds: Sequence[int], size: int) -> tuple[ctypes.Array[CkAttribute], ctypes.Array[c_char]]:
    """Return an array that requests these attributes, each with `size` bytes (none if 0), and the buffer of them all.

    `size` is a multiple of 8: modules write numbers where the room of an attribute begins.
    """
    array, buffer = _attributes(len(kinds))(), buffer_of(size * len(kinds))
    start = ctypes.addressof(buffer)
    for index, kind in enumerate(kinds):
        attribute = array[index]
        attribute.type, attribute.ulValueLen = kind, size
        attribute.pValue = start + index * size if size else None
    return array, buffer


class WrapMechanism(NamedTuple):
    """A mechanism that wraps or unwraps."""

    mechanism: int
    oaep: tuple[int, int] | None = None
    """CKM_… of the hash and CKG_… of the mask generation function, for CKM_RSA_PKCS_OAEP."""


def with_parameter(mechanism: int, parameter: Structure | None) -> CkMechanism:
    """Return a CK_MECHANISM. The caller keeps the parameter alive while it is used."""
    if parameter is None:
        return CkMechanism(mechanism, None, 0)
    return CkMechanism(mechanism, ctypes.addressof(parameter), sizeof(parameter))


def mechanism_of(way: WrapMechanism) -> tuple[CkMechanism, CkOaepParams | None]:
    """Return the mechanism, and the parameter that must stay alive while it is used."""
    if way.oaep is None:
        return CkMechanism(way.mechanism, None, 0), None
    digest, mask = way.oaep
    parameter = CkOaepParams(digest, mask, _CKZ_DATA_SPECIFIED, None, 0)
    return with_parameter(way.mechanism, parameter), parameter


def flag(values: Mapping[int, bytes], kind: int) -> bool | None:
    """Return a CK_BBOOL from the result of `RawModule.attributes`; None if it is missing."""
    value = values.get(kind)
    return None if value is None or len(value) != 1 else value != b"\x00"


def number(values: Mapping[int, bytes], kind: int) -> int | None:
    """Return a CK_ULONG from the result of `RawModule.attributes`; None if it is missing."""
    value = values.get(kind)
    return None if value is None or len(value) != sizeof(c_ulong) else c_ulong.from_buffer_copy(value).value


def numbers(value: bytes) -> Sequence[int]:
    """Return the CK_ULONGs of an array attribute."""
    width = sizeof(c_ulong)
    return [c_ulong.from_buffer_copy(value[i : i + width]).value for i in range(0, len(value) - width + 1, width)]


def pack_numbers(values: Iterable[int]) -> bytes:
    """Encode an array of CK_ULONG."""
    return b"".join(bytes(c_ulong(value)) for value in values)


def attribute_name(kind: int) -> str:
    """Return `CKA_…`, or the number of an attribute that the binding does not know."""
    try:
        return f"CKA_{Attribute(kind).name}"
    except ValueError:
        return f"CKA 0x{kind:x}"
