"""A PKCS#11 module that fails, waits or lies on demand (tests/contract/shim.c), in front of a real one."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from enum import IntEnum
from pathlib import Path

SOURCE = Path(__file__).parent / "contract" / "shim.c"


class Function(IntEnum):
    """The functions that the shim can bend: their places in CK_FUNCTION_LIST."""

    OPEN_SESSION = 12
    LOGIN = 18
    CREATE_OBJECT = 20
    DESTROY_OBJECT = 22
    GET_ATTRIBUTE_VALUE = 24
    FIND_OBJECTS_INIT = 26
    ENCRYPT_INIT = 29
    ENCRYPT = 30
    DECRYPT_INIT = 33
    DECRYPT = 34
    SIGN = 43
    GENERATE_KEY = 58
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
    """Bends calls of the loaded shim. What fails has worked before it fails."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._library = ctypes.CDLL(str(path))
        self._library.shim_calls.restype = ctypes.c_ulong
        self._library.shim_hung.restype = ctypes.c_ulong

    def fail(self, function: Function, rv: int) -> None:
        """Answer with `rv`; 0 ends it."""
        self._library.shim_fault(int(function), ctypes.c_ulong(rv))

    def delay(self, function: Function, seconds: float) -> None:
        """Wait in each call."""
        self._library.shim_delay(int(function), ctypes.c_ulong(int(seconds * 1e6)))

    def hang(self, function: Function, *, on: bool) -> None:
        """Let calls hang until this is set off again."""
        self._library.shim_hang(int(function), int(on))

    def own_iv(self) -> None:
        """Make GCM nonces in the token."""
        self._library.shim_own_iv(1)

    def lie(self) -> None:
        """Show CKA_EXTRACTABLE True on every object."""
        self._library.shim_lie(1)

    def calls(self, function: Function) -> int:
        """Calls since the last reset."""
        return int(self._library.shim_calls(int(function)))

    @property
    def hung(self) -> int:
        """Calls that hang now."""
        return int(self._library.shim_hung())

    def reset(self) -> None:
        """Bend nothing any more."""
        self._library.shim_reset()
