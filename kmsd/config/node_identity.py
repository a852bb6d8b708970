"""Identity of this host among the nodes of a database: a file in the data folder."""

from __future__ import annotations

import re
import secrets
from pathlib import Path
from typing import Annotated

import msgspec

from kmsd.config.settings import ConfigError
from kmsd.linux.files import replace_file

FILE = "node.json"
_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?")


class NodeIdentity(msgspec.Struct, frozen=True):
    """Id and name of a node."""

    node_id: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{32}$")]
    """32 hexadecimal digits, at random: two data folders never have the same, unless one was copied."""
    name: str
    streams: str = ""
    """Value of `log_streams`, if the host was another node before."""
    hsm: str = ""
    """Name of the HSM that it uses. Empty: that of the first node."""

    @property
    def log_streams(self) -> str:
        """Prefix of the log streams with the audit trail in this data folder; no other folder has the same."""
        return self.streams or f"{self.name}.{self.node_id[:8]}/"

    @classmethod
    def new(cls, name: str, before: NodeIdentity | None = None, hsm: str = "") -> NodeIdentity:
        """Return an identity with a new id. `before` is that of the same data folder, which has been removed.

        Raises `ConfigError` if the name cannot be used.
        """
        if not _NAME.fullmatch(name):
            raise ConfigError(f"{name!r} cannot be a node's name: 1 to 63 lower-case letters, digits, dots and hyphens")
        return cls(secrets.token_hex(16), name, "" if before is None else before.log_streams, hsm)


def read(data_dir: Path) -> NodeIdentity | None:
    """Return the identity in a data folder; None if it has none. Raises `ConfigError`."""
    path = data_dir / FILE
    try:
        return msgspec.json.decode(path.read_bytes(), type=NodeIdentity)
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise ConfigError(f"{path} cannot be read: {exc.strerror}") from exc
    except msgspec.MsgspecError as exc:
        raise ConfigError(f"{path} is damaged: {exc}") from exc


def write(data_dir: Path, identity: NodeIdentity) -> None:
    """Write the identity; durable on return. Raises `ConfigError`."""
    try:
        replace_file(data_dir / FILE, msgspec.json.encode(identity))
    except OSError as exc:
        raise ConfigError(f"{data_dir / FILE} cannot be written: {exc.strerror}") from exc
