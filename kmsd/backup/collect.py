"""Copying of files into a backup while other processes write to them. Blocking: call it in a thread.

The order matters (docs/decisions/0009-backup.md): the database first. The files copied after it then hold everything
it refers to: objects in the token's folder, events in the segments, and a record of every change in the trail.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

from kmsd.adapters.audit_trail.format import COPIES, files_of
from kmsd.adapters.pkcs11 import softhsm_token_copy
from kmsd.adapters.pkcs11.softhsm_token_object import Damaged, UnknownFormat, parse
from kmsd.backup.archive import Writer
from kmsd.cloudwatch_logs.segments import files as segments
from kmsd.cloudwatch_logs.segments.store import RESULTS
from kmsd.linux.byte_locks import flock

TRIES = 5
_PAUSE_SECONDS = 0.1
_WINDOW = 1024 * 1024


class FileChanged(OSError):
    """A file disappeared, or became shorter, at each attempt to copy it."""


def add_file(writer: Writer, name: str, path: Path) -> None:
    """Add a file that no process writes to. Raises OSError."""
    with path.open("rb") as file:
        if not writer.add(name, file, os.fstat(file.fileno()).st_size):
            raise FileChanged(f"{path} changed while it was copied")


# --- Log segments ------------------------------------------------------------------------------------


def add_logs(writer: Writer, folder: Path) -> None:
    """Add all segments and query results. Raises OSError."""
    for group in sorted(segments.groups(folder)):
        _add_group(writer, group)
    results = folder / RESULTS
    names = sorted(entry.name for entry in os.scandir(results)) if results.exists() else []
    for name in names:
        if not name.endswith(segments.TEMPORARY):
            # If it was deleted in the meantime, it must not be readable any more.
            with contextlib.suppress(FileNotFoundError):
                add_file(writer, f"logs/{RESULTS}/{name}", results / name)


def _add_group(writer: Writer, folder: Path) -> None:
    """Add the segments of one group. One that is replaced or dropped meanwhile is looked up again by its new name."""
    copied: set[str] = set()
    for _ in range(TRIES):
        again = False
        for name, finished in segments.listing(folder):
            base = name.partition("-")[0]
            if base not in copied:
                if _add_segment(writer, folder, name, finished=finished):
                    copied.add(base)
                else:
                    again = True
        if not again:
            return
    raise FileChanged(f"{folder} changes too quickly to be copied")


def _add_segment(writer: Writer, folder: Path, name: str, *, finished: bool) -> bool:
    """Add a segment, and its index if finished. An unfinished one is copied as it is: readers ignore a torn end."""
    with ExitStack() as stack:
        opened: list[tuple[str, BinaryIO]] = []
        try:
            suffixes = (segments.SEGMENT, segments.INDEX) if finished else (segments.SEGMENT,)
            opened += [(suffix, stack.enter_context((folder / (name + suffix)).open("rb"))) for suffix in suffixes]
        except FileNotFoundError:
            return False
        return all(
            writer.add(f"logs/{folder.name}/{name}{suffix}", file, os.fstat(file.fileno()).st_size)
            for suffix, file in opened
        )


# --- The audit trail ----------------------------------------------------------------------------------


def add_trail(writer: Writer, folder: Path) -> None:
    """Add every file of every writer, up to its last complete line. Raises OSError.

    Copy the checkpoint copies first, in the order in which a verifier reads: a line is in the trail before its
    checkpoint is anywhere else.
    """
    if (folder / COPIES).exists():
        _add_lines(writer, f"audit/{COPIES}", folder / COPIES)
    for found in files_of(folder).values():
        for name, path in found:
            _add_lines(writer, f"audit/{name}", path)


def _add_lines(writer: Writer, name: str, path: Path) -> None:
    for _ in range(TRIES):
        with path.open("rb") as file:
            size = _whole_lines(file)
            file.seek(0)
            if size == 0 or writer.add(name, file, size):
                return
    raise FileChanged(f"{path} becomes shorter and shorter")


def _whole_lines(file: BinaryIO) -> int:
    """Return the length of a file's complete lines in bytes."""
    end = file.seek(0, os.SEEK_END)
    while end > 0:
        start = max(0, end - _WINDOW)
        file.seek(start)
        found = file.read(end - start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0


# --- SoftHSM2's folder --------------------------------------------------------------------------------


def add_token(writer: Writer, folder: Path) -> None:
    """Add the files of one token. Each is copied under the lock that SoftHSM2 takes to write it. Raises OSError."""
    for path in sorted(folder.iterdir()):
        # SoftHSM2 recreates missing lock files. An object destroyed in the meantime must stay destroyed. The first
        # login to the restored token makes another copy of token.object.
        is_own = path.suffix != ".lock" and not path.name.startswith(softhsm_token_copy.COMPANIONS)
        if is_own and path.is_file():
            with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
                _lock(file)
                if path.name == softhsm_token_copy.NAME:
                    _await_whole(file, path)
                if not writer.add(f"token/{folder.name}/{path.name}", file, os.fstat(file.fileno()).st_size):
                    raise FileChanged(f"{path} changed while it was copied")


def _await_whole(file: BinaryIO, path: Path) -> None:
    """Wait until token.object is whole: at a login, SoftHSM2 releases its lock just before it writes.

    Raises `FileChanged`: without this file the others are of no use.
    """
    for _ in range(TRIES):
        file.seek(0)
        try:
            parse(file.read())
        except Damaged:
            time.sleep(_PAUSE_SECONDS)
        except UnknownFormat:
            break
        else:
            break
    else:
        raise FileChanged(f"{path} is damaged")
    file.seek(0)


def _lock(file: BinaryIO) -> None:
    """Hold a shared lock on the whole file until it is closed.

    The lock belongs to the open file, not to the process: it also excludes SoftHSM2's own locks in this process.
    """
    fcntl.fcntl(file, fcntl.F_OFD_SETLKW, flock(fcntl.F_RDLCK, 0, 0))
