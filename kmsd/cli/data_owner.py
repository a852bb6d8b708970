"""The user that the daemon's data belongs to: whoever runs a command as root becomes that user.

What root leaves in the data directory the daemon cannot write, and a PKCS#11 module has no business with root's rights.
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
    """A user to become."""

    uid: int
    gid: int
    name: str
    """Empty if the system has no name for it."""
    home: str = "/"


def caller_uid() -> int:
    """Return who started this process: root, after it has become another user."""
    return _caller


def name_of(uid: int) -> str:
    """Return the name of a user, or its number in words."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"


def to_become(data_dir: Path) -> Owner | None:
    """Return the owner of the data, if this process is root's and another user owns them. Raises OSError."""
    if os.geteuid() != _ROOT:
        return None
    try:
        found = data_dir.stat()
    except FileNotFoundError:
        return None  # `kmsd init` makes it; other commands say what is missing
    if found.st_uid == _ROOT:
        return None
    try:
        known = pwd.getpwuid(found.st_uid)
    except KeyError:
        return Owner(found.st_uid, found.st_gid, "")
    return Owner(known.pw_uid, known.pw_gid, known.pw_name, known.pw_dir)


def become_owner_of(data_dir: Path) -> None:
    """Become the user that the data belong to, if this process is root's. Raises OSError."""
    owner = to_become(data_dir)
    if owner is not None:
        become(owner)


def become(owner: Owner) -> None:
    """Give up root's rights for good; files are made for the owner alone from now on. Raises OSError."""
    if owner.name:
        os.initgroups(owner.name, owner.gid)
    else:
        os.setgroups([])
    os.setresgid(owner.gid, owner.gid, owner.gid)
    os.setresuid(owner.uid, owner.uid, owner.uid)
    os.umask(0o077)
    # systemd.exec(5), User=: some PKCS#11 modules look for their configuration there.
    os.environ.update(HOME=owner.home, USER=owner.name, LOGNAME=owner.name)
    # prctl(2), PR_SET_DUMPABLE: a change of user sets it to what fs.suid_dumpable says.
    keep_memory_private()
