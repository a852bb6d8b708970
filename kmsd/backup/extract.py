"""Unpack a backup into a folder, and verify its hashes and signature before its content is used."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from kmsd.adapters.audit_trail.checkpoint_evidence import Readable
from kmsd.adapters.audit_trail.format import COPIES, FileName
from kmsd.backup import archive
from kmsd.backup.archive import CorruptArchive
from kmsd.backup.manifest import DATABASE, MANIFEST, SIGNATURE, Manifest, parse

_UUID = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_NAMES = re.compile(
    rf"{re.escape(DATABASE)}|{re.escape(MANIFEST)}|{re.escape(SIGNATURE)}"
    r"|logs/[0-9a-f]{32}/[0-9a-f]{20}-[0-9]+\.(seg|idx)"
    rf"|logs/results/{_UUID}"
    rf"|token/{_UUID}/(generation|token\.object|{_UUID}\.object)"
)


def unpack(backup: Readable, folder: Path, advance: Callable[[int], object] = lambda _: None) -> Manifest:
    """Write every part under its name below `folder`, durable on return.

    `advance` is called with the number of bytes that were written. Raises `CorruptArchive`, which names the part, and
    OSError.
    """

    def take(name: str, content: Iterator[bytes]) -> None:
        if not _is_known(name):
            raise CorruptArchive(f"the part {name!r} is none of kmsd's")
        path = folder / name
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except FileExistsError as exc:
            raise CorruptArchive(f"two parts have the name {name}") from exc
        with os.fdopen(descriptor, "wb") as file:
            for piece in content:
                file.write(piece)
                advance(len(piece))
            file.flush()
            os.fsync(file.fileno())

    with backup.open("rb") as file:
        found = archive.read(file, take)
    if [part.name for part in found[-2:]] != [MANIFEST, SIGNATURE]:
        raise CorruptArchive(f"the part {MANIFEST} is missing: this backup was not finished, or was cut off")
    manifest = parse((folder / MANIFEST).read_bytes(), (folder / SIGNATURE).read_bytes(), found)
    if not (folder / DATABASE).exists():
        raise CorruptArchive(f"the part {DATABASE} is missing")
    (folder / "logs").mkdir(mode=0o700, exist_ok=True)
    (folder / "audit").mkdir(mode=0o750, exist_ok=True)
    return manifest


def _is_known(name: str) -> bool:
    place, _, rest = name.partition("/")
    if place == "audit":
        return rest == COPIES or FileName.parse(rest) is not None
    return _NAMES.fullmatch(name) is not None
