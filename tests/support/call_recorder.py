"""A PKCS#11 module that writes down what every call returns (tests/contract/recorder.c), in front of a real one."""

from __future__ import annotations

import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.support.shim import compiler

SOURCE = Path(__file__).parents[1] / "contract" / "recorder.c"
GET_ATTRIBUTE_VALUE, DECRYPT, SIGN, WRAP_KEY, UNWRAP_KEY, GENERATE_RANDOM = 24, 34, 43, 60, 61, 64
ENCAPSULATE_KEY, DECAPSULATE_KEY = 92, 93
"""Places in CK_FUNCTION_LIST and CK_FUNCTION_LIST_3_2."""


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
