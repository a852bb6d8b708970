"""Configuration: one TOML file becomes one frozen `Config`. Unknown keys are refused, defaults are safe."""

from __future__ import annotations

import os
import shlex
import sys
import tomllib
from pathlib import Path, PosixPath

import msgspec

from kmsd.config.constraints import constraints
from kmsd.config.messages import of_validation, unknown_settings
from kmsd.config.sections import Config

CREDENTIAL = "credential:"
"""Prefix of a path that names a systemd credential."""


class ConfigError(Exception):
    """The configuration cannot be used; the text says what is wrong and where."""


class Credential(PosixPath):
    """Path of a systemd credential, written `credential:NAME`. It is resolved when it is opened.

    So commands that read neither PIN nor TLS key work without credentials.
    """

    @property
    def credential(self) -> str:
        """Return the credential's name."""
        return str(self).removeprefix(CREDENTIAL)

    def __fspath__(self) -> str:
        """Return the present location. Raises `ConfigError` if it was not passed to this process."""
        if (fetched := _fetched.get(self.credential)) is not None:
            return f"/proc/self/fd/{fetched}"
        # systemd.exec(5), LoadCredential=
        if folder := os.environ.get("CREDENTIALS_DIRECTORY"):
            return os.path.join(folder, self.credential)  # noqa: PTH118 (it must return a string)
        if _started_by_root:
            raise ConfigError(f"systemd passes {self} to the daemon that it starts: systemctl start kmsd")
        raise ConfigError(f"systemd passes {self} to the daemon, and not to this process: {_as_root()}")


def _as_root() -> str:
    """Return the command to type instead."""
    return f"run it as root: sudo kmsd {shlex.join(sys.argv[1:])}"


_started_by_root = os.getuid() == 0
_fetched: dict[str, int] = {}
"""Descriptors of memory files that hold credentials, by name."""


def keep_credential(name: str, content: bytes) -> None:
    """Make every later open of this credential read `content`, which is kept in the memory of this process."""
    descriptor = os.memfd_create(name, os.MFD_CLOEXEC)
    with os.fdopen(os.dup(descriptor), "wb") as file:
        file.write(content)
    _fetched[name] = descriptor


def load(path: Path) -> Config:
    """Read the file. Raises `ConfigError`."""
    return parse(read(path), path)


def read(path: Path) -> str:
    """Return the text of the file. Raises `ConfigError`."""
    try:
        return path.read_text()
    except FileNotFoundError as exc:
        raise ConfigError(f"{path} does not exist; name another with --config") from exc
    except PermissionError as exc:
        raise ConfigError(f"{path} cannot be read by this user: {_as_root()}") from exc
    except OSError as exc:
        raise ConfigError(f"{path} cannot be read: {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        raise ConfigError(f"{path} is not text in UTF-8") from exc


def parse(text: str, path: Path) -> Config:
    """Parse the text of the file at `path`. Raises `ConfigError`."""
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        raise ConfigError(f"{path} is not TOML: {exc}") from exc
    if unknown := unknown_settings(raw, Config):
        raise ConfigError("\n".join(f"{path}: {sentence}" for sentence in unknown))
    try:
        config = msgspec.convert(raw, Config, dec_hook=_decode_path)
    except msgspec.ValidationError as exc:
        raise ConfigError(f"{path}: {of_validation(str(exc))}") from exc
    _check(config, path)
    return config


def _decode_path(wanted: type, value: object) -> object:
    if wanted is Path and isinstance(value, str):
        return _credential(value) if value.startswith(CREDENTIAL) else Path(value)
    raise NotImplementedError


def _credential(text: str) -> Credential:
    """Return the credential that `text` names. Raises ValueError if it is not a valid name."""
    name = text.removeprefix(CREDENTIAL)
    if not name or "/" in name or name in {".", ".."}:
        raise ValueError(f"{text} is not the name of a credential")
    return Credential(text)


def _check(config: Config, path: Path) -> None:
    """Check the constraints that types cannot express. Raises `ConfigError`."""
    for name, complaint, holds in constraints(config):
        if not holds:
            raise ConfigError(f"{path}: {name} {complaint}")
