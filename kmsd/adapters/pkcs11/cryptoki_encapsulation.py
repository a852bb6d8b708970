"""Key encapsulation: the two functions that PKCS#11 v3.2 added, called as in `kmsd.adapters.pkcs11.cryptoki`.

They are in the function list of version 3.2, which C_GetInterface returns. Modules of earlier versions have none.
"""

from __future__ import annotations

import ctypes
from ctypes import POINTER, Structure, byref, c_char_p, c_ulong, c_void_p
from typing import TYPE_CHECKING, Any

from pkcs11 import Mechanism

from kmsd.adapters.pkcs11.cryptoki_types import CkMechanism, CkVersion, buffer_of, pack
from kmsd.adapters.pkcs11.return_codes import Ckr, CkrError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kmsd.adapters.pkcs11.cryptoki_types import Value

_ENCAPSULATE, _DECAPSULATE = 92, 93
"""Places of C_EncapsulateKey and C_DecapsulateKey in CK_FUNCTION_LIST_3_2, counted from 0."""
_CIPHERTEXT_ROOM = 1568
"""Bytes of the longest ciphertext, that of ML-KEM-1024 (FIPS 203, table 3)."""


class _CkInterface(Structure):
    """CK_INTERFACE."""

    _fields_ = (("pInterfaceName", c_char_p), ("pFunctionList", c_void_p), ("flags", c_ulong))


class _CkFunctionList(Structure):
    """CK_FUNCTION_LIST_3_2 up to C_DecapsulateKey."""

    _fields_ = (("version", CkVersion), ("functions", c_void_p * (_DECAPSULATE + 1)))


class Encapsulation:
    """C_EncapsulateKey and C_DecapsulateKey of one module, with CKM_ML_KEM. Methods raise `CkrError`."""

    def __init__(self, library: ctypes.CDLL) -> None:
        functions = _functions_of(library)
        self._encapsulate = _callable(functions, _ENCAPSULATE, c_void_p, c_void_p, c_void_p)
        self._decapsulate = _callable(functions, _DECAPSULATE, c_char_p, c_ulong, c_void_p)

    def encapsulate(self, session: int, public: int, template: Mapping[int, Value]) -> tuple[bytes, int]:
        """Return the ciphertext of a fresh secret, and the handle of the object that holds the secret."""
        array, _alive = pack(template)
        out, length, handle = buffer_of(_CIPHERTEXT_ROOM), c_ulong(_CIPHERTEXT_ROOM), c_ulong(0)
        self._do(self._encapsulate, "C_EncapsulateKey", session, public, array, out, byref(length), byref(handle))
        return out.raw[: length.value], handle.value

    def decapsulate(self, session: int, private: int, ciphertext: bytes, template: Mapping[int, Value]) -> int:
        """Return the handle of the object that holds the secret of a ciphertext."""
        array, _alive = pack(template)
        handle = c_ulong(0)
        given = (ciphertext, len(ciphertext), byref(handle))
        self._do(self._decapsulate, "C_DecapsulateKey", session, private, array, *given)
        return handle.value

    @staticmethod
    def _do(function: Any, name: str, session: int, key: int, array: Any, *rest: Any) -> None:
        if function is None:
            raise CkrError(Ckr.FUNCTION_NOT_SUPPORTED, name)
        mechanism = CkMechanism(int(Mechanism.ML_KEM), None, 0)
        rv = function(session, byref(mechanism), key, array, len(array), *rest)
        if rv:
            raise CkrError(rv, name)


def _functions_of(library: ctypes.CDLL) -> _CkFunctionList | None:
    """Return the module's function list of version 3.2 or later; None if it has none."""
    try:
        get_interface = library.C_GetInterface
    except AttributeError:
        return None
    get_interface.argtypes, get_interface.restype = (c_char_p, c_void_p, c_void_p, c_ulong), c_ulong
    interface, wanted = POINTER(_CkInterface)(), CkVersion(3, 2)
    if get_interface(b"PKCS 11", byref(wanted), byref(interface), 0) or not bool(interface):
        return None
    functions = ctypes.cast(interface.contents.pFunctionList, POINTER(_CkFunctionList)).contents
    version = functions.version
    return functions if (version.major, version.minor) >= (3, 2) else None


def _callable(functions: _CkFunctionList | None, place: int, *last: Any) -> Any:
    address = None if functions is None else functions.functions[place]
    if not address:
        return None
    return ctypes.CFUNCTYPE(c_ulong, c_ulong, c_void_p, c_ulong, c_void_p, c_ulong, *last)(address)
