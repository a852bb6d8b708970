"""Read the records of all writers of a trail in order of time, without verifying them."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from kmsd.adapters.audit_trail.chain_verifier import lines_of
from kmsd.adapters.audit_trail.format import OWN, Malformed, checkpoint_of, control_members, files_of

_decode = msgspec.json.Decoder(dict[str, Any]).decode
_PARTS = 3


def records(directories: Sequence[Path], *, containing: bytes = b"", from_day: str = "") -> Iterator[dict[str, Any]]:
    """Yield audit records of one trail or several that contain `containing`.

    Files that were last written to before `from_day` (`20261122`) are left out; records of earlier days may be among
    them. Unreadable lines are skipped. Raises OSError.
    """
    streams = [
        _of_writer([path for name, path in _since(found, from_day)], containing)
        for directory in directories
        for found in files_of(directory).values()
    ]
    return heapq.merge(*streams, key=lambda record: str(record.get("eventTime", "")))


def _since(found: list[tuple[Any, Path]], from_day: str) -> list[tuple[Any, Path]]:
    """Return the files from the last one started before the day on: that file may continue into the day."""
    older = [index for index, (name, _) in enumerate(found) if f"{name.day:%Y%m%d}" < from_day]
    return found[older[-1] if older else 0 :]


def _of_writer(paths: list[Path], containing: bytes) -> Iterator[dict[str, Any]]:
    for path in paths:
        for lines, _ in lines_of(path):
            for line in lines:
                if containing not in line:
                    continue
                parts = line.split(b" ", 2)
                if len(parts) == _PARTS and not parts[2].startswith(OWN):
                    try:
                        yield _decode(parts[2])
                    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError):
                        continue


def checkpoints(directory: Path) -> Iterator[bytes]:
    """Yield the lines of all checkpoints in the trail, by writer, oldest first. Raises OSError."""
    for found in files_of(directory).values():
        for _, path in found:
            for lines, _ in lines_of(path):
                for line in lines:
                    parts = line.split(b" ", 2)
                    if len(parts) == _PARTS and parts[2].startswith(b'{"kmsd":"checkpoint"'):
                        try:
                            yield checkpoint_of(control_members(parts[2]) or {}).line()
                        except Malformed:
                            continue
