"""A PKCS#11 module that fails, waits, lies, goes away or dies on demand (tests/contract/shim.c), before a real one."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from dataclasses import replace
from enum import IntEnum
from pathlib import Path

from tests.support.tokens import TokenPlace

SOURCE = Path(__file__).parents[1] / "contract" / "shim.c"


class Function(IntEnum):
    """The functions that the adapter calls: their places in CK_FUNCTION_LIST."""

    INITIALIZE = 0
    FINALIZE = 1
    GET_SLOT_LIST = 4
    GET_SLOT_INFO = 5
    GET_TOKEN_INFO = 6
    GET_MECHANISM_LIST = 7
    GET_MECHANISM_INFO = 8
    OPEN_SESSION = 12
    CLOSE_SESSION = 13
    CLOSE_ALL_SESSIONS = 14
    GET_SESSION_INFO = 15
    LOGIN = 18
    LOGOUT = 19
    CREATE_OBJECT = 20
    COPY_OBJECT = 21
    DESTROY_OBJECT = 22
    GET_ATTRIBUTE_VALUE = 24
    SET_ATTRIBUTE_VALUE = 25
    FIND_OBJECTS_INIT = 26
    FIND_OBJECTS = 27
    FIND_OBJECTS_FINAL = 28
    ENCRYPT_INIT = 29
    ENCRYPT = 30
    ENCRYPT_UPDATE = 31
    DECRYPT_INIT = 33
    DECRYPT = 34
    SIGN_INIT = 42
    SIGN = 43
    GENERATE_KEY = 58
    GENERATE_KEY_PAIR = 59
    WRAP_KEY = 60
    UNWRAP_KEY = 61
    DERIVE_KEY = 62
    GENERATE_RANDOM = 64


def compiler() -> str | None:
    """The C compiler, if there is one."""
    return shutil.which("cc") or shutil.which("gcc")


def build(folder: Path) -> Path:
    """Compile the shim into `folder`."""
    path = folder / "shim.so"
    compile_it = [compiler() or "cc", "-shared", "-fPIC", "-O1", "-w", "-o", str(path), str(SOURCE), "-ldl"]
    subprocess.run(compile_it, check=True, capture_output=True)
    return path


class Shim:
    """Bends calls of the loaded shim, or of all processes that share `control`.

    What fails has worked before it fails, unless told otherwise.
    """

    def __init__(self, path: Path, control: Path | None = None) -> None:
        self.path = path
        self._library = ctypes.CDLL(str(path))
        self._library.shim_calls.restype = ctypes.c_ulong
        self._library.shim_hung.restype = ctypes.c_ulong
        self._library.shim_null_ivs.restype = ctypes.c_ulong
        if control is not None and self._library.shim_control(str(control).encode()):
            raise OSError(f"{control} cannot be mapped")

    def fail(self, function: Function, rv: int, *, times: int = 0, unworked: bool = False) -> None:
        """Answer with `rv`, so many times (0: always); rv 0 ends it. `unworked`: without having worked."""
        self._library.shim_fault(int(function), ctypes.c_ulong(rv), ctypes.c_long(times), int(unworked))

    def die(self, function: Function, *, call: int = 1, unworked: bool = False) -> None:
        """Kill the process that makes the n-th call from now on: after it has worked, or before."""
        self._library.shim_die(int(function), ctypes.c_long(call), int(unworked))

    def gone(self, rv: int) -> None:
        """Unplug the token: sessions are lost, and all answers are `rv` until it is 0."""
        self._library.shim_gone(ctypes.c_ulong(rv))

    def delay(self, function: Function, seconds: float) -> None:
        """Wait in each call."""
        self._library.shim_delay(int(function), ctypes.c_ulong(int(seconds * 1e6)))

    def hang(self, function: Function, *, on: bool) -> None:
        """Let calls hang until this is set off again."""
        self._library.shim_hang(int(function), int(on))

    def own_iv(self) -> None:
        """Make 12-byte GCM nonces in the token, and write them over the caller's."""
        self._library.shim_own_iv(1)

    def append_iv(self, length: int | None, *, refuses_given: bool = False) -> None:
        """Make GCM nonces of this length in the token, and append them to ciphertexts; None: 12 or 16, by ulIvBits.

        A nonce of the caller is ignored, or refused.
        """
        self._library.shim_append_iv(-1 if length is None else length, int(refuses_given))

    def lie(self) -> None:
        """Show CKA_EXTRACTABLE True on every object."""
        self._library.shim_lie(1)

    def calls(self, function: Function) -> int:
        """Calls since the last reset."""
        return int(self._library.shim_calls(int(function)))

    @property
    def null_ivs(self) -> int:
        """Encryptions that gave no place for the token's nonce, where a real one would have crashed."""
        return int(self._library.shim_null_ivs())

    @property
    def hung(self) -> int:
        """Calls that hang now."""
        return int(self._library.shim_hung())

    def reset(self) -> None:
        """Bend nothing any more."""
        self._library.shim_reset()


def bent(place: TokenPlace, folder: Path) -> tuple[TokenPlace, Shim]:
    """`place` behind a shim of its own, for daemons that are other processes; and what bends them all."""
    control = folder / "shim.control"
    shim = Shim(build(folder), control)
    environment = {"KMSD_SHIM_MODULE": str(place.module), "KMSD_SHIM_CONTROL": str(control)}
    return replace(place, module=shim.path, environment={**place.environment, **environment}), shim
