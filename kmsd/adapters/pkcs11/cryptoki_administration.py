"""Calls of the key ceremony and of its proofs, called as in `kmsd.adapters.pkcs11.cryptoki`.

They are the security officer's login, sessions of a moment, changes of attributes, and encryption by any mechanism.
"""

from __future__ import annotations

import ctypes
from contextlib import contextmanager
from ctypes import byref, c_ulong, sizeof
from typing import TYPE_CHECKING, Any

from kmsd.adapters.pkcs11.cryptoki_types import CkMechanism, CkSessionInfo, buffer_of, pack
from kmsd.adapters.pkcs11.return_codes import CkrError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from ctypes import Structure

    from kmsd.adapters.pkcs11.cryptoki_types import Value

_CKU_SO = 0
_CKF_RW_SERIAL_SESSION = 0x2 | 0x4
_ROOM = 256
"""Bytes for a ciphertext of a proof."""


class Administration:
    """Functions of one loaded module, by their names. Methods raise `CkrError`."""

    def __init__(self, functions: Mapping[str, Any]) -> None:
        self._functions = functions

    def _do(self, function: str, *arguments: Any) -> None:
        rv = self._functions[function](*arguments)
        if rv:
            raise CkrError(rv, function)

    @contextmanager
    def further_session(self, session: int) -> Iterator[int]:
        """Open a read-write session with the token of `session`; its session objects end with the block."""
        info, further = CkSessionInfo(), c_ulong(0)
        self._do("C_GetSessionInfo", session, byref(info))
        self._do("C_OpenSession", info.slotID, _CKF_RW_SERIAL_SESSION, None, None, byref(further))
        try:
            yield further.value
        finally:
            self._do("C_CloseSession", further.value)

    def login_security_officer(self, session: int, pin: bytes) -> None:
        """Call C_Login as CKU_SO. The token may count each call as one attempt."""
        self._do("C_Login", session, _CKU_SO, pin, len(pin))

    def logout(self, session: int) -> None:
        """Call C_Logout, which ends the login of the whole process. Private session objects end with it."""
        self._do("C_Logout", session)

    def set_attributes(self, session: int, handle: int, template: Mapping[int, Value]) -> None:
        """Call C_SetAttributeValue."""
        array, _alive = pack(template)
        self._do("C_SetAttributeValue", session, handle, array, len(array))

    def encrypt(self, session: int, key: int, mechanism: int, text: bytes, parameter: Structure | None = None) -> bytes:
        """Call C_Encrypt. Return the ciphertext, which has at most 256 bytes."""
        return self._crypt("C_Encrypt", session, key, mechanism, text, parameter)

    def decrypt(self, session: int, key: int, mechanism: int, text: bytes, parameter: Structure | None = None) -> bytes:
        """Call C_Decrypt. Return the plaintext, which has at most 256 bytes."""
        return self._crypt("C_Decrypt", session, key, mechanism, text, parameter)

    def _crypt(  # noqa: PLR0917 (those of both)
        self, function: str, session: int, key: int, mechanism: int, text: bytes, parameter: Structure | None
    ) -> bytes:
        address, size = (None, 0) if parameter is None else (ctypes.addressof(parameter), sizeof(parameter))
        out, length = buffer_of(_ROOM), c_ulong(_ROOM)
        self._do(f"{function}Init", session, byref(CkMechanism(mechanism, address, size)), key)
        self._do(function, session, text, len(text), out, byref(length))
        return out.raw[: length.value]
