"""Change from root to the user that owns the daemon's data.

The daemon cannot write files that root leaves in the data directory, and a PKCS#11 module must not run as root.
"""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import msgspec

from kmsd.linux.prctl import keep_memory_private

_ROOT = 0
_caller = os.getuid()


class Owner(msgspec.Struct, frozen=True):
    """The user to change to."""

    uid: int
    gid: int
    name: str
    """Empty if the system has no name for the uid."""
    home: str = "/"


def caller_uid() -> int:
    """Return the user who started this process, root even after the change of user."""
    return _caller


def name_of(uid: int) -> str:
    """Return the name of a user, or `uid N`."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"


def to_become(data_dir: Path) -> Owner | None:
    """Return the owner of the data if this process runs as root and another user owns them. Raises OSError."""
    if os.geteuid() != _ROOT:
        return None
    try:
        found = data_dir.stat()
    except FileNotFoundError:
        return None  # `kmsd init` creates it; other commands report what is missing
    if found.st_uid == _ROOT:
        return None
    try:
        known = pwd.getpwuid(found.st_uid)
    except KeyError:
        return Owner(found.st_uid, found.st_gid, "")
    return Owner(known.pw_uid, known.pw_gid, known.pw_name, known.pw_dir)


def become_owner_of(data_dir: Path) -> None:
    """Change to the user that owns the data, if this process runs as root. Raises OSError."""
    owner = to_become(data_dir)
    if owner is not None:
        become(owner)


def become(owner: Owner) -> None:
    """Drop root's rights for good. From now on files are created for the owner only. Raises OSError."""
    if owner.name:
        os.initgroups(owner.name, owner.gid)
    else:
        os.setgroups([])
    os.setresgid(owner.gid, owner.gid, owner.gid)
    os.setresuid(owner.uid, owner.uid, owner.uid)
    os.umask(0o077)
    # systemd.exec(5), User=: some PKCS#11 modules look there for their configuration.
    os.environ.update(HOME=owner.home, USER=owner.name, LOGNAME=owner.name)
    # prctl(2), PR_SET_DUMPABLE: a change of user resets it to fs.suid_dumpable.
    keep_memory_private()
