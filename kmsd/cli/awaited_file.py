"""A file that the command line names and that appears later. The invoking user reads it, as other files of a command.

The process changes to the daemon's user before the file is there. So a second process, which stays with the invoking
user, looks for it and hands on its content, each time that the file changes.
"""

from __future__ import annotations

import asyncio
import os
import select
import signal
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import NoReturn

_INTERVAL_SECONDS = 0.3
_HEAD_BYTES = 8
MAX_BYTES = 4 * 1024 * 1024
"""Length of the longest content; of a longer file nothing is handed on."""


class AwaitedFile:
    """An argument that names a file to wait for."""

    def __init__(self, text: str) -> None:
        """Remember the name (argparse calls this)."""
        self.path = Path(text)
        self._contents = -1
        self._alive = -1

    def __str__(self) -> str:
        return str(self.path)

    def begin(self) -> None:
        """Start to look for the file. Call it before the change of user, and before the PKCS#11 module is loaded."""
        self._contents, out = os.pipe()
        ours, self._alive = os.pipe()
        if os.fork() == 0:
            os.close(self._contents)
            os.close(self._alive)
            _watch(self.path, out, ours)
        os.close(out)
        os.close(ours)

    async def contents(self) -> AsyncGenerator[bytes]:
        """Yield the content of the file each time that it has appeared or changed, without end."""
        loop, reader = asyncio.get_running_loop(), asyncio.StreamReader()
        pipe = os.fdopen(self._contents, "rb", 0)
        transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)
        try:
            while True:
                length = int.from_bytes(await reader.readexactly(_HEAD_BYTES), "big")
                yield await reader.readexactly(length)
        finally:
            transport.close()
            os.close(self._alive)


def _watch(path: Path, out: int, parent: int) -> NoReturn:
    """Write the content of each version of the file, until the parent ends."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    seen: tuple[int, ...] = ()
    try:
        while not select.select([parent], [], [], _INTERVAL_SECONDS)[0]:
            now, content = _read(path, seen)
            if now and now != seen:
                os.write(out, len(content).to_bytes(_HEAD_BYTES, "big"))
                _write_all(out, content)
            seen = now
    finally:
        os._exit(0)


def _read(path: Path, seen: tuple[int, ...]) -> tuple[tuple[int, ...], bytes]:
    """Return what distinguishes this version of the file, and its content; nothing if it cannot be read."""
    try:
        with path.open("rb") as file:
            found = os.fstat(file.fileno())
            now = (found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size)
            if now == seen:
                return now, b""
            return now, file.read(MAX_BYTES + 1)[:MAX_BYTES]
    except OSError:
        return (), b""


def _write_all(out: int, content: bytes) -> None:
    left = memoryview(content)
    while left:
        left = left[os.write(out, left) :]
