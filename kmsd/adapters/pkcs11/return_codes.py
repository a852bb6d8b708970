"""PKCS#11 return codes, and the one table that maps each to what the adapter does about it."""

from __future__ import annotations

import re
from enum import Enum, IntEnum, auto

import pkcs11.exceptions as binding

from kmsd import ports


class Ckr(IntEnum):
    """Return codes that the adapter distinguishes (PKCS#11 v2.40 section 3.3)."""

    OK = 0x00
    CANCEL = 0x01
    HOST_MEMORY = 0x02
    SLOT_ID_INVALID = 0x03
    GENERAL_ERROR = 0x05
    FUNCTION_FAILED = 0x06
    ARGUMENTS_BAD = 0x07
    ATTRIBUTE_READ_ONLY = 0x10
    ATTRIBUTE_SENSITIVE = 0x11
    ATTRIBUTE_TYPE_INVALID = 0x12
    ATTRIBUTE_VALUE_INVALID = 0x13
    ACTION_PROHIBITED = 0x1B
    DATA_INVALID = 0x20
    DATA_LEN_RANGE = 0x21
    DEVICE_ERROR = 0x30
    DEVICE_MEMORY = 0x31
    DEVICE_REMOVED = 0x32
    ENCRYPTED_DATA_INVALID = 0x40
    ENCRYPTED_DATA_LEN_RANGE = 0x41
    AEAD_DECRYPT_FAILED = 0x42
    FUNCTION_CANCELED = 0x50
    FUNCTION_NOT_PARALLEL = 0x51
    FUNCTION_NOT_SUPPORTED = 0x54
    KEY_HANDLE_INVALID = 0x60
    KEY_SIZE_RANGE = 0x62
    KEY_TYPE_INCONSISTENT = 0x63
    KEY_FUNCTION_NOT_PERMITTED = 0x68
    MECHANISM_INVALID = 0x70
    MECHANISM_PARAM_INVALID = 0x71
    OBJECT_HANDLE_INVALID = 0x82
    OPERATION_ACTIVE = 0x90
    OPERATION_NOT_INITIALIZED = 0x91
    PIN_INCORRECT = 0xA0
    PIN_INVALID = 0xA1
    PIN_LEN_RANGE = 0xA2
    PIN_EXPIRED = 0xA3
    PIN_LOCKED = 0xA4
    SESSION_CLOSED = 0xB0
    SESSION_COUNT = 0xB1
    SESSION_HANDLE_INVALID = 0xB3
    SESSION_PARALLEL_NOT_SUPPORTED = 0xB4
    SESSION_READ_ONLY = 0xB5
    SESSION_EXISTS = 0xB6
    SIGNATURE_INVALID = 0xC0
    SIGNATURE_LEN_RANGE = 0xC1
    TEMPLATE_INCOMPLETE = 0xD0
    TEMPLATE_INCONSISTENT = 0xD1
    TOKEN_NOT_PRESENT = 0xE0
    TOKEN_NOT_RECOGNIZED = 0xE1
    TOKEN_WRITE_PROTECTED = 0xE2
    UNWRAPPING_KEY_HANDLE_INVALID = 0xF0
    USER_ALREADY_LOGGED_IN = 0x100
    USER_NOT_LOGGED_IN = 0x101
    USER_PIN_NOT_INITIALIZED = 0x102
    USER_TYPE_INVALID = 0x103
    USER_ANOTHER_ALREADY_LOGGED_IN = 0x104
    WRAPPED_KEY_INVALID = 0x110
    WRAPPED_KEY_LEN_RANGE = 0x112
    WRAPPING_KEY_HANDLE_INVALID = 0x113
    DOMAIN_PARAMS_INVALID = 0x130
    CURVE_NOT_SUPPORTED = 0x140
    BUFFER_TOO_SMALL = 0x150
    CRYPTOKI_NOT_INITIALIZED = 0x190
    CRYPTOKI_ALREADY_INITIALIZED = 0x191


class ErrorClass(Enum):
    """Consequence of a return code for the call, the session, the handle and the login."""

    DATA = auto()
    """The data are invalid; token, session and handle are good."""
    SUSPECT = auto()
    """Either the data or the token are bad: reading the sentinel decides."""
    HANDLE = auto()
    """No object has this handle: reading the sentinel decides whether the object or the token is gone."""
    SESSION = auto()
    """The session is unusable: retry once with another one."""
    LOGIN = auto()
    """The login, the token or the module is lost: log in again."""
    PIN = auto()
    """The token refused the PIN: stop, and never offer it again."""
    MECHANISM = auto()
    """The token does not support the mechanism or function."""
    OTHER = auto()
    """Anything else: the call failed. Close the session and read the sentinel."""


CLASS_OF_CODE: dict[int, ErrorClass] = {
    Ckr.DATA_INVALID: ErrorClass.DATA,
    Ckr.DATA_LEN_RANGE: ErrorClass.DATA,
    Ckr.ENCRYPTED_DATA_INVALID: ErrorClass.DATA,
    Ckr.ENCRYPTED_DATA_LEN_RANGE: ErrorClass.DATA,
    Ckr.AEAD_DECRYPT_FAILED: ErrorClass.DATA,
    Ckr.SIGNATURE_INVALID: ErrorClass.DATA,
    Ckr.SIGNATURE_LEN_RANGE: ErrorClass.DATA,
    Ckr.WRAPPED_KEY_INVALID: ErrorClass.DATA,
    Ckr.WRAPPED_KEY_LEN_RANGE: ErrorClass.DATA,
    # SoftHSM 2.6.1 returns GENERAL_ERROR for a wrong GCM tag, opencryptoki BUFFER_TOO_SMALL for a short text.
    Ckr.GENERAL_ERROR: ErrorClass.SUSPECT,
    Ckr.FUNCTION_FAILED: ErrorClass.SUSPECT,
    Ckr.BUFFER_TOO_SMALL: ErrorClass.SUSPECT,
    Ckr.KEY_HANDLE_INVALID: ErrorClass.HANDLE,
    Ckr.OBJECT_HANDLE_INVALID: ErrorClass.HANDLE,
    Ckr.UNWRAPPING_KEY_HANDLE_INVALID: ErrorClass.HANDLE,
    Ckr.WRAPPING_KEY_HANDLE_INVALID: ErrorClass.HANDLE,
    # SoftHSM 2.6.1 returns this for an object whose file was overwritten with garbage.
    Ckr.KEY_FUNCTION_NOT_PERMITTED: ErrorClass.HANDLE,
    Ckr.SESSION_CLOSED: ErrorClass.SESSION,
    Ckr.SESSION_HANDLE_INVALID: ErrorClass.SESSION,
    Ckr.OPERATION_ACTIVE: ErrorClass.SESSION,
    Ckr.OPERATION_NOT_INITIALIZED: ErrorClass.SESSION,
    Ckr.USER_NOT_LOGGED_IN: ErrorClass.LOGIN,
    Ckr.DEVICE_ERROR: ErrorClass.LOGIN,
    Ckr.DEVICE_REMOVED: ErrorClass.LOGIN,
    Ckr.TOKEN_NOT_PRESENT: ErrorClass.LOGIN,
    Ckr.TOKEN_NOT_RECOGNIZED: ErrorClass.LOGIN,
    Ckr.SLOT_ID_INVALID: ErrorClass.LOGIN,
    Ckr.CRYPTOKI_NOT_INITIALIZED: ErrorClass.LOGIN,
    Ckr.PIN_INCORRECT: ErrorClass.PIN,
    Ckr.PIN_INVALID: ErrorClass.PIN,
    Ckr.PIN_LEN_RANGE: ErrorClass.PIN,
    Ckr.PIN_EXPIRED: ErrorClass.PIN,
    Ckr.PIN_LOCKED: ErrorClass.PIN,
    Ckr.USER_PIN_NOT_INITIALIZED: ErrorClass.PIN,
    Ckr.MECHANISM_INVALID: ErrorClass.MECHANISM,
    Ckr.FUNCTION_NOT_SUPPORTED: ErrorClass.MECHANISM,
    Ckr.CURVE_NOT_SUPPORTED: ErrorClass.MECHANISM,
}

REFUSALS = frozenset(
    {
        Ckr.ATTRIBUTE_TYPE_INVALID,
        Ckr.ATTRIBUTE_VALUE_INVALID,
        Ckr.ATTRIBUTE_READ_ONLY,
        Ckr.TEMPLATE_INCONSISTENT,
        Ckr.GENERAL_ERROR,
        Ckr.FUNCTION_FAILED,
        Ckr.ARGUMENTS_BAD,
    }
)
"""Codes for an attribute that the module does not accept. NSS: GENERAL_ERROR for CKA_COPYABLE on a token object."""

_PORT_ERRORS: dict[ErrorClass, type[ports.TokenError]] = {
    ErrorClass.DATA: ports.TokenError,
    ErrorClass.SUSPECT: ports.TokenError,
    ErrorClass.HANDLE: ports.TokenError,
    ErrorClass.SESSION: ports.TokenUnavailable,
    ErrorClass.LOGIN: ports.TokenUnavailable,
    ErrorClass.PIN: ports.PinRefused,
    ErrorClass.MECHANISM: ports.MechanismMissing,
    ErrorClass.OTHER: ports.TokenError,
}


class CkrError(Exception):
    """A PKCS#11 function returned a code other than CKR_OK. Never leaves the adapter."""

    def __init__(self, rv: int, function: str) -> None:
        super().__init__(rv, function)
        self.rv = rv
        self.function = function

    def __str__(self) -> str:
        return f"{self.function}: {name_of(self.rv)}"

    @property
    def error_class(self) -> ErrorClass:
        """Consequence of the code; `OTHER` for a code that is not in the table."""
        return CLASS_OF_CODE.get(self.rv, ErrorClass.OTHER)


def name_of(rv: int) -> str:
    """Return `CKR_…` if the code is known, else its number."""
    try:
        return f"CKR_{Ckr(rv).name}"
    except ValueError:
        return f"CKR 0x{rv:x}"


def port_error(error: CkrError) -> ports.TokenError:
    """Return the port's error for this code, when only the code is known."""
    return _PORT_ERRORS[error.error_class](str(error))


# python-pkcs11 raises one exception class per code and does not keep the code itself.
_BINDING: dict[type[binding.PKCS11Error], Ckr] = {
    binding.ArgumentsBad: Ckr.ARGUMENTS_BAD,
    binding.AttributeReadOnly: Ckr.ATTRIBUTE_READ_ONLY,
    binding.AttributeTypeInvalid: Ckr.ATTRIBUTE_TYPE_INVALID,
    binding.AttributeValueInvalid: Ckr.ATTRIBUTE_VALUE_INVALID,
    binding.DeviceError: Ckr.DEVICE_ERROR,
    binding.DeviceMemory: Ckr.DEVICE_MEMORY,
    binding.DeviceRemoved: Ckr.DEVICE_REMOVED,
    binding.FunctionFailed: Ckr.FUNCTION_FAILED,
    binding.FunctionNotSupported: Ckr.FUNCTION_NOT_SUPPORTED,
    binding.GeneralError: Ckr.GENERAL_ERROR,
    binding.HostMemory: Ckr.HOST_MEMORY,
    binding.MechanismInvalid: Ckr.MECHANISM_INVALID,
    binding.MechanismParamInvalid: Ckr.MECHANISM_PARAM_INVALID,
    binding.ObjectHandleInvalid: Ckr.OBJECT_HANDLE_INVALID,
    binding.OperationActive: Ckr.OPERATION_ACTIVE,
    binding.SessionClosed: Ckr.SESSION_CLOSED,
    binding.SessionCount: Ckr.SESSION_COUNT,
    binding.SessionHandleInvalid: Ckr.SESSION_HANDLE_INVALID,
    binding.SessionReadOnly: Ckr.SESSION_READ_ONLY,
    binding.SlotIDInvalid: Ckr.SLOT_ID_INVALID,
    binding.TemplateIncomplete: Ckr.TEMPLATE_INCOMPLETE,
    binding.TemplateInconsistent: Ckr.TEMPLATE_INCONSISTENT,
    binding.TokenNotPresent: Ckr.TOKEN_NOT_PRESENT,
    binding.TokenNotRecognised: Ckr.TOKEN_NOT_RECOGNIZED,
    binding.TokenWriteProtected: Ckr.TOKEN_WRITE_PROTECTED,
    binding.UserNotLoggedIn: Ckr.USER_NOT_LOGGED_IN,
}
_UNMAPPED = re.compile(r"0x([0-9a-fA-F]+)")


def of_binding(error: binding.PKCS11Error) -> CkrError:
    """Return the code behind an exception of python-pkcs11 (0.10.1 has no attribute for it)."""
    text = str(error)
    if (code := _BINDING.get(type(error))) is not None:
        return CkrError(code, "python-pkcs11")
    if "not initialized" in text:
        return CkrError(Ckr.CRYPTOKI_NOT_INITIALIZED, "python-pkcs11")
    if (found := _UNMAPPED.search(text)) is not None:
        return CkrError(int(found[1], 16), "python-pkcs11")
    # Treat an unknown class as GENERAL_ERROR: reading the sentinel then decides whether the token is present.
    return CkrError(Ckr.GENERAL_ERROR, f"python-pkcs11 {type(error).__name__}")
