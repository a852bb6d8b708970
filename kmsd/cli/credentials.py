"""Credentials for commands run by root, because systemd passes them to the daemon only."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from kmsd.config.settings import ConfigError, Credential, keep_credential
from kmsd.linux import systemd_units


def fetch_credentials(paths: Iterable[Path]) -> None:
    """Take the credentials among these paths, if run by root, from kmsd.service's sources. Raises `ConfigError`.

    Credentials that systemd passed to this process are read here too: they are unreadable after the change of user.
    Users other than root see the command to type when the credential is read.
    """
    if os.geteuid() != 0:
        return
    for path in paths:
        if not isinstance(path, Credential):
            continue
        try:
            passed = "CREDENTIALS_DIRECTORY" in os.environ
            keep_credential(path.credential, path.read_bytes() if passed else systemd_units.credential(path.credential))
        except OSError as exc:
            raise ConfigError(f"{path} cannot be read: {exc.strerror}") from exc
        except systemd_units.UnitError as exc:
            raise ConfigError(f"{path}: {exc}") from exc
