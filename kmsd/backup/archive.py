"""File format of a backup: an uncompressed tar archive of plain files, written in one go and read strictly.

Any tar lists and unpacks it. The reader accepts only what `Writer` writes: regular files with short names, one header
block each. There are no links, directories or extensions, so no part can be written outside its folder.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Callable, Iterator
from hashlib import sha256
from typing import BinaryIO

import msgspec

BLOCK = 512
CHUNK = 1024 * 1024
MAX_NAME_BYTES = 100


class CorruptArchive(Exception):
    """The backup is damaged; the text names the part."""


class Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One file in a backup, as listed in the manifest."""

    name: str
    """`database.sqlite`, `logs/…`, `audit/…`, `token/…`."""
    size: int
    sha256: str
    """Hash in hexadecimal."""


class Writer:
    """Appends files to an archive that is open for writing; `finish` makes it durable."""

    def __init__(self, file: BinaryIO, advance: Callable[[int], object] = lambda _: None) -> None:
        """`advance` is called with the number of bytes that were appended."""
        self._file, self._advance = file, advance
        self.parts: list[Part] = []

    def add(self, name: str, source: BinaryIO, size: int) -> bool:
        """Add `size` bytes of `source`. Return False, and add nothing, if it has become shorter. Raises OSError."""
        start = self._file.tell()
        self._file.write(_header(name, size))
        digest, left = sha256(), size
        while left and (piece := source.read(min(CHUNK, left))):
            digest.update(piece)
            self._file.write(piece)
            left -= len(piece)
            self._advance(len(piece))
        if left:
            self._file.seek(start)
            self._file.truncate()
            return False
        self._file.write(bytes(-size % BLOCK))
        self.parts.append(Part(name, size, digest.hexdigest()))
        return True

    def finish(self) -> int:
        """Write the end of the archive; durable on return. Return its size."""
        self._file.write(bytes(2 * BLOCK))
        self._file.flush()
        os.fsync(self._file.fileno())
        return self._file.tell()


def _header(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o600
    header = info.tobuf(tarfile.GNU_FORMAT)
    if len(name) > MAX_NAME_BYTES or len(header) != BLOCK:
        raise ValueError(f"{name!r} is too long a name for a part of a backup")
    return header


def read(file: BinaryIO, take: Callable[[str, Iterator[bytes]], None]) -> list[Part]:
    """Pass every part to `take`, with its content in pieces, which it must consume. Return the parts.

    Raises `CorruptArchive`, OSError, and what `take` raises.
    """
    found: list[Part] = []
    while (info := _next(file, found)) is not None:
        digest = sha256()
        take(info.name, _content(file, info, digest.update))
        if file.read(-info.size % BLOCK).strip(b"\0"):
            raise CorruptArchive(f"damaged behind the part {info.name}")
        found.append(Part(info.name, info.size, digest.hexdigest()))
    rest = file.read(BLOCK + 1)
    if rest.strip(b"\0") or len(rest) != BLOCK:
        raise CorruptArchive(f"damaged behind the part {_last(found)}: this is not the end of a backup")
    return found


def _next(file: BinaryIO, found: list[Part]) -> tarfile.TarInfo | None:
    """Read the next header; None at the end."""
    block = file.read(BLOCK)
    if len(block) < BLOCK:
        raise CorruptArchive(f"cut off behind the part {_last(found)}" if found else "this is no backup of kmsd")
    if not block.strip(b"\0"):
        return None
    try:
        info = tarfile.TarInfo.frombuf(block, "utf-8", "strict")
    except (tarfile.HeaderError, UnicodeDecodeError) as exc:
        raise CorruptArchive(
            f"the header behind the part {_last(found)} is damaged" if found else "this is no backup of kmsd"
        ) from exc
    # Accept only the header that the writer would produce for this name and size.
    if info.type != tarfile.REGTYPE or _header(info.name, info.size) != block:
        raise CorruptArchive(f"the header behind the part {_last(found)} is none of kmsd's")
    return info


def _content(file: BinaryIO, info: tarfile.TarInfo, tell: Callable[[bytes], None]) -> Iterator[bytes]:
    left = info.size
    while left:
        piece = file.read(min(CHUNK, left))
        if not piece:
            raise CorruptArchive(f"cut off within the part {info.name}")
        tell(piece)
        left -= len(piece)
        yield piece


def _last(found: list[Part]) -> str:
    return found[-1].name if found else "(none)"
