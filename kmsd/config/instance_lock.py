"""Exclusive lock on the data directory, held by the daemon and by restore, migrate and init."""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path
from typing import IO

from kmsd.config.sections import Config
from kmsd.config.settings import ConfigError
from kmsd.exit_codes import TryLater


class InstanceRunning(TryLater, ConfigError):
    """Another process holds the lock of the data directory."""


def acquire_instance_lock(config: Config) -> IO[bytes]:
    """Take the lock until the file is closed or the process ends. Raises `InstanceRunning`, `ConfigError`."""
    try:
        handle = _path(config).open("ab")
    except OSError as exc:
        raise ConfigError(f"{config.data_dir} cannot be locked: {exc.strerror}") from exc
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:
        handle.close()
        raise InstanceRunning(f"another kmsd serves {config.data_dir}: stop it first") from exc
    with suppress(OSError):  # on a full disk: it is the lock that counts
        handle.truncate(0)
        handle.write(b"%d\n" % os.getpid())
        handle.flush()
    return handle


def daemon_of(config: Config) -> int | None:
    """Return the process id of the daemon that serves the data directory; None if none does.

    The lock is not tried: a daemon that starts at that moment would take this process for another daemon.
    """
    try:
        pid = _path(config).read_text().strip()
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return None
    return int(pid) if pid.isdecimal() and b"serve" in words else None


def _path(config: Config) -> Path:
    return config.data_dir / "daemon.lock"
