"""Copy of SoftHSM2's token.object, from which the file is restored after a login that was interrupted.

token.object holds the key that seals all objects of a token. SoftHSM 2.6.1 truncates it at each C_Login, and writes it
again when it closes the file. A process that is killed in between, or a power failure, leaves it empty, and all keys
are lost although their files are there.

Before a login the file is kept as it is, unless the copy says the same. After a login, which has proven the file, it
becomes the copy. Before C_Initialize a damaged file is replaced by what was kept last. All of this is done under the
start lock. SoftHSM reads only files whose names end with `.object`, and so ignores these.
"""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

import structlog

from kmsd.adapters.pkcs11.softhsm import fits_folder, is_softhsm, token_folders
from kmsd.adapters.pkcs11.softhsm_token_object import Damaged, TokenObject, UnknownFormat, parse
from kmsd.linux.byte_locks import flock
from kmsd.linux.files import replace_file, sync_folder
from kmsd.ports import TokenUnavailable

NAME = "token.object"
COPY = "token.object.copy"
"""The file after the last login."""
BEFORE_LOGIN = "token.object.before-login"
"""The file before a login that has not succeeded yet, if it differs from the copy: the PIN was changed since."""
DAMAGED = "token.object.damaged-"
"""Beginning of the names of damaged files that were replaced; the time follows."""
COMPANIONS = f"{NAME}."
"""Beginning of the names of all files that this module writes beside token.object."""
_SETTLE_SECONDS = 0.5
"""Pause before a damaged file is read again: another program may be logging in, and SoftHSM releases its lock on the
file just before it writes."""

log = structlog.get_logger(__name__)


class Identity(NamedTuple):
    """Label, serial number and slot that name a token in the settings. All that are given must fit."""

    label: str | None
    serial: str | None
    slot: int | None

    def fits(self, token: TokenObject) -> bool:
        """True if this names the token."""
        return (
            self.label in {None, token.label}
            and self.serial in {None, token.serial}
            and (self.slot is None or self.slot == token.slot)
        )


class CopyState(StrEnum):
    """Relation of a token.object and its copies."""

    KEPT = "kept"
    MISSING = "missing"
    """The file is whole, and has no copy."""
    STALE = "stale"
    """The file is whole, and says something else than its copy: the PIN was changed since the last login."""
    RESTORABLE = "restorable"
    """The file is damaged, and will be restored."""
    LOST = "lost"
    """The file is damaged, and has no copy."""


class TokenCopy:
    """Copy of the token.object of one SoftHSM2 token. Other tokens have none; the methods then do nothing."""

    def __init__(self, manufacturer: str, serial: str, root: Path | None) -> None:
        """`root` holds all tokens of the host (`directories.tokendir`)."""
        folders = token_folders(root, serial) if root is not None and is_softhsm(manufacturer) else []
        self._folder = folders[0] if len(folders) == 1 else None

    def before_login(self) -> None:
        """Keep the file if the copy says something else. Durable on return; a failure is logged."""
        self._keep(BEFORE_LOGIN)

    def after_login(self) -> None:
        """Make the file, which a login has just proven, the copy. Durable on return; a failure is logged."""
        self._keep(COPY)

    def _keep(self, name: str) -> None:
        folder = self._folder
        if folder is None:
            return
        try:
            present = _usable(folder / NAME)
            if present is None:
                log.warning("token_object_not_copied", folder=str(folder), reason="it is not whole, or has no user PIN")
                return
            copy = _usable(folder / COPY)
            is_known = copy is not None and copy.is_same(present)
            if not is_known:
                replace_file(folder / name, present.content)
            if is_known or name == COPY:
                # Else a later restoration would prefer it.
                _remove(folder / BEFORE_LOGIN)
        except OSError as error:
            log.warning("token_object_not_copied", folder=str(folder), reason=str(error))


def restore(root: Path | None, identity: Identity) -> None:
    """Replace the token's token.object if it is damaged and what was kept is whole. Raises `TokenUnavailable`.

    Call it under the start lock, before C_Initialize. The damaged file stays under another name.
    """
    for path in sorted(root.glob(f"*/{NAME}")) if root is not None else ():
        try:
            _restore(path.parent, identity)
        except PermissionError:
            continue  # the token of another user, which SoftHSM leaves out, too
        except OSError as error:
            raise TokenUnavailable(f"{path} cannot be read: {error}") from error


def _restore(folder: Path, identity: Identity) -> None:
    kept = _last_kept(folder)
    # Another token's file may be damaged for a moment: its logins have another start lock.
    if kept is None or not identity.fits(kept) or _damaged(folder) is None:
        return
    time.sleep(_SETTLE_SECONDS)
    content = _damaged(folder)
    if content is None:
        return
    aside = folder / f"{DAMAGED}{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}"
    try:
        replace_file(aside, content)
        replace_file(folder / NAME, kept.content)
    except OSError as error:
        raise TokenUnavailable(f"{folder / NAME} is damaged, and cannot be restored: {error}") from error
    log.warning("token_object_restored", folder=str(folder), serial=kept.serial, damaged=aside.name)


def states(root: Path, identity: Identity) -> Iterator[tuple[Path, CopyState]]:
    """Yield the folder and the state of each token that the identity may mean. Raises OSError."""
    for path in sorted(root.glob(f"*/{NAME}")):
        folder = path.parent
        kept, present = _last_kept(folder), _usable(folder / NAME)
        known = present or kept
        if known is None:
            if _damaged(folder) is not None:
                yield folder, CopyState.LOST
        elif identity.fits(known):
            yield folder, _state(folder, present, kept)


def _state(folder: Path, present: TokenObject | None, kept: TokenObject | None) -> CopyState:
    if present is None:
        return CopyState.STALE if _damaged(folder) is None else CopyState.RESTORABLE
    if kept is None:
        return CopyState.MISSING
    return CopyState.KEPT if kept.is_same(present) else CopyState.STALE


def _last_kept(folder: Path) -> TokenObject | None:
    """Return what token.object was before the last login, or after it; None if nothing whole was kept."""
    return _usable(folder / BEFORE_LOGIN) or _usable(folder / COPY)


def _remove(path: Path) -> None:
    """Remove a file, if there is one; durable on return."""
    try:
        path.unlink()
    except FileNotFoundError:
        return
    sync_folder(path.parent)


def _usable(path: Path) -> TokenObject | None:
    """Return a whole file of the folder's token, with a user PIN; None if it is missing or something else."""
    content = _read(path)
    if content is None:
        return None
    try:
        found = parse(content)
    except (Damaged, UnknownFormat):
        return None
    return found if found.has_user_pin and fits_folder(path.parent, found.serial) else None


def _damaged(folder: Path) -> bytes | None:
    """Return the content of the folder's token.object if it is damaged; None if it may be whole, or is missing."""
    content = _read(folder / NAME)
    if content is None:
        return None
    try:
        parse(content)
    except Damaged:
        return content
    except UnknownFormat:
        return None
    return None


def _read(path: Path) -> bytes | None:
    """Read a file under the lock that SoftHSM takes to write it; None if it is missing. Raises OSError."""
    try:
        with path.open("rb") as file:
            fcntl.fcntl(file, fcntl.F_OFD_SETLKW, flock(fcntl.F_RDLCK, 0, 0))
            return file.read()
    except FileNotFoundError:
        return None
