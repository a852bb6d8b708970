"""Create a backup while the daemon serves: copy in order, have the token sign, and put the file in place."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from io import BytesIO
from pathlib import Path
from uuid import uuid4

import msgspec
from msgspec.structs import replace

from kmsd import __version__
from kmsd.adapters.audit_trail.checkpointer import Signer
from kmsd.adapters.audit_trail.format import instant
from kmsd.app import Components, read_pin
from kmsd.backup import collect, database
from kmsd.backup.archive import Part, Writer
from kmsd.backup.manifest import (
    DATABASE,
    FORMAT,
    MANIFEST,
    SIGNATURE,
    Manifest,
    TokenNote,
    proof_by_pin,
    signature_text,
    signed_digest,
)
from kmsd.linux.files import sync_folder

_UNFINISHED = ".kmsd-backup-"
LAST_BACKUP = "last-backup.json"
"""File in the data directory that describes the latest backup, for monitoring."""


class LastBackup(msgspec.Struct, frozen=True):
    """Content of `LAST_BACKUP`."""

    backup_id: str
    snapshot_at: str
    size: int


def last_backup(data_dir: Path) -> LastBackup | None:
    """Return the latest backup that was made on this host; None if there is none. Raises OSError, `DecodeError`."""
    try:
        return msgspec.json.decode((data_dir / LAST_BACKUP).read_bytes(), type=LastBackup)
    except FileNotFoundError:
        return None


class BackupResult(msgspec.Struct, frozen=True):
    """A backup that is complete and durable."""

    path: Path
    manifest: Manifest
    size: int


async def create(
    components: Components,
    signer: Signer,
    target: Path,
    token_folder: Path | None,
    advance: Callable[[int], object] = lambda _: None,
) -> BackupResult:
    """Create a backup at `target`, which must not exist, with the files of `token_folder` if one is given.

    `advance` is called with the number of bytes that were copied. No file has that name until the backup is complete.
    Raises `StoreUnavailable`, `TokenError`, OSError.
    """
    with _workshop(target.parent) as folder, (folder / "unfinished").open("xb") as file:
        os.fchmod(file.fileno(), 0o600)
        writer = Writer(file, advance)
        snapshot_at = components.pipeline.clock.now()
        await database.save(components.config, folder / DATABASE)
        logs = await database.save_logs(components, folder / "logs")
        await asyncio.to_thread(_copy, writer, folder, token_folder, logs)
        # The trail comes last, with a signature that covers this process's records.
        await components.sink.sign_now()
        await asyncio.to_thread(collect.add_trail, writer, components.config.audit_dir)
        manifest = await _manifest(components, signer, snapshot_at, tuple(writer.parts))
        text = msgspec.json.format(msgspec.json.encode(manifest), indent=1) + b"\n"
        signature = signature_text(await signer.sign(signed_digest(text)))
        writer.add(MANIFEST, BytesIO(text), len(text))
        writer.add(SIGNATURE, BytesIO(signature), len(signature))
        size = await asyncio.to_thread(writer.finish)
        # Link, not rename: a file of this name that appeared in the meantime must not be replaced.
        os.link(folder / "unfinished", target)
        sync_folder(target.parent)
    _note(components.config.data_dir, LastBackup(manifest.backup_id, manifest.snapshot_at, size))
    return BackupResult(target, manifest, size)


async def _manifest(components: Components, signer: Signer, snapshot_at: datetime, parts: tuple[Part, ...]) -> Manifest:
    info, config = components.token.info, components.config
    manifest = Manifest(
        format=FORMAT,
        backup_id=str(uuid4()),
        snapshot_at=instant(snapshot_at),
        ended_at=instant(components.pipeline.clock.now()),
        release=__version__,
        host=socket.gethostname(),
        account=config.account,
        region=config.region,
        token=TokenNote(info.label, info.serial, info.manufacturer, info.model),
        audit_key=signer.public_key,
        parts=parts,
        hsm=(await components.store.read()).hsm,
    )
    if not manifest.has_token:
        return manifest
    proof = await asyncio.to_thread(proof_by_pin, read_pin(config.token.pin_file), manifest)
    return replace(manifest, token_proof=proof)


def _copy(writer: Writer, folder: Path, token_folder: Path | None, logs: Path) -> None:
    collect.add_file(writer, DATABASE, folder / DATABASE)
    if token_folder is not None:
        collect.add_token(writer, token_folder)
    collect.add_logs(writer, logs)


@contextmanager
def _workshop(parent: Path) -> Iterator[Path]:
    """Create a temporary folder next to the backup; remove those of processes that died. Raises OSError."""
    for left in parent.glob(f"{_UNFINISHED}*"):
        _remove_if_left(left)
    folder = Path(tempfile.mkdtemp(prefix=_UNFINISHED, dir=parent))
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield folder
    finally:
        shutil.rmtree(folder)
        os.close(descriptor)


def _remove_if_left(folder: Path) -> None:
    """Remove a temporary folder of kmsd that no process holds; keep anything else of this name. Raises OSError.

    Other users may write to the folder of the backups, too: their files must not prevent a backup.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except (NotADirectoryError, FileNotFoundError, PermissionError):
        return
    except OSError as exc:
        if exc.errno == errno.ELOOP:  # a link
            return
        raise
    try:
        if os.fstat(descriptor).st_uid == os.geteuid():
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder)
    except BlockingIOError:
        return  # another backup is being made
    finally:
        os.close(descriptor)


def _note(data_dir: Path, last: LastBackup) -> None:
    temporary = data_dir / f"{LAST_BACKUP}.new"
    temporary.write_bytes(msgspec.json.encode(last))
    temporary.rename(data_dir / LAST_BACKUP)
