"""A PKCS#11 module that writes down what every call returns (tests/contract/recorder.c), in front of a real one."""

from __future__ import annotations

import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.support.shim import compiler

SOURCE = Path(__file__).parents[1] / "contract" / "recorder.c"
GET_ATTRIBUTE_VALUE, DECRYPT, SIGN, GENERATE_RANDOM = 24, 34, 43, 64
GENERATE_KEY, WRAP_KEY, UNWRAP_KEY, DERIVE_KEY = 58, 60, 61, 62
ENCAPSULATE_KEY, DECAPSULATE_KEY = 92, 93
"""Places in CK_FUNCTION_LIST and CK_FUNCTION_LIST_3_2."""
KEY_VALUE = 200
"""Stands for a call that returned the value of a secret or private key. The buffer is the place of the function that
had returned the key's handle."""


class Recorder:
    """A module of its own, however many there are in a process: each is a file."""

    def __init__(self, folder: Path, module: Path) -> None:
        self.path = folder / f"recorded-{module.name}"
        command = [compiler() or "cc", "-shared", "-fPIC", "-O1", "-w", "-o", str(self.path), str(SOURCE), "-ldl"]
        subprocess.run([*command, "-lpthread"], check=True, capture_output=True)
        self._beside(".real").write_text(str(module))

    def _beside(self, suffix: str) -> Path:
        return self.path.with_name(self.path.name + suffix)

    def returned(self) -> Iterator[tuple[int, bytes]]:
        """Function and buffer of everything that was returned, by all processes."""
        data, at = self._beside(".out").read_bytes(), 0
        while at < len(data):
            function, length = struct.unpack_from("LL", data, at)
            at += 16
            yield function, data[at : at + length]
            at += length

    def origins_of_values(self) -> set[int]:
        """The functions that made the keys whose value was returned."""
        return {int.from_bytes(data, sys.byteorder) for function, data in self.returned() if function == KEY_VALUE}
