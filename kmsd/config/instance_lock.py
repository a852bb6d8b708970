"""Exclusive lock on the data directory, held by the daemon and by restore, migrate and init."""

from __future__ import annotations

import fcntl
from typing import IO

from kmsd.config.sections import Config
from kmsd.config.settings import ConfigError
from kmsd.exit_codes import TryLater


class InstanceRunning(TryLater, ConfigError):
    """Another process holds the lock of the data directory."""


def acquire_instance_lock(config: Config) -> IO[bytes]:
    """Take the lock until the file is closed or the process ends. Raises `InstanceRunning`, `ConfigError`."""
    try:
        handle = (config.data_dir / "daemon.lock").open("ab")
    except OSError as exc:
        raise ConfigError(f"{config.data_dir} cannot be locked: {exc.strerror}") from exc
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:
        handle.close()
        raise InstanceRunning(f"another kmsd serves {config.data_dir}: stop it first") from exc
    return handle
