"""Credentials for commands that root runs: systemd passes them to the daemon alone."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from kmsd.config.settings import ConfigError, Credential, keep_credential
from kmsd.linux import systemd_units


def fetch_credentials(paths: Iterable[Path]) -> None:
    """As root, take the credentials among these paths from where kmsd.service takes them. Raises `ConfigError`.

    Those that systemd has passed to this process are read here too: after the change of user they are not this
    process's. Other users than root are told what to type when the credential is read.
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
