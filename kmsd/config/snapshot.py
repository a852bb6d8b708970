"""Snapshot of the accepted configuration. Every worker runs with it until another one is accepted.

The text of kmsd.toml, the certificate and its key are copied into memory files, which workers inherit. If a worker
dies while a file is broken or half written, its replacement starts with the accepted configuration.
"""

from __future__ import annotations

import fcntl
import os
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from kmsd.config import settings as configuration
from kmsd.config.sections import Config
from kmsd.config.settings import ConfigError
from kmsd.wire.http.tls import CertificateUnusable, TlsFiles, refuse_expired, tls_context

RELOADABLE = (
    "public_url",
    "workers",
    "limits",
    "logs",
    "rates",
    "listen.tls_certificate",
    "listen.tls_key",
    "listen.tls_client_ca",
    "listen.header_seconds",
    "listen.body_seconds",
    "listen.keepalive_seconds",
    "listen.drain_seconds",
    "listen.leave_seconds",
    "listen.connections",
    "token.pin_file",
    "token.sessions",
    "token.call_deadline_seconds",
    "token.inline",
    "token.session_objects",
    "import",
    "import_token.pin_file",
    "import_token.sessions",
    "import_token.call_deadline_seconds",
    "import_token.session_objects",
    "store.password_file",
    "store.tls_ca",
    "store.questions",
    "store.questions_per_second",
    "store.connect_seconds",
    "store.question_seconds",
    "store.call_seconds",
    "audit.file_bytes",
    "audit.checkpoint_lines",
    "audit.checkpoint_seconds",
    "audit.forward",
    "audit.refusals_per_second",
)
"""Settings, or tables of them, that a running daemon reloads. All others need a restart: the listener is bound once,
and two workers of one daemon must agree on the place and the names of keys."""
_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


class ConfigSnapshot(msgspec.Struct, frozen=True):
    """One accepted configuration. This process owns the descriptors until `close`."""

    config: Config
    text: int
    """Memory file with the text of kmsd.toml."""
    tls: tuple[int, ...] = ()
    """Memory files: certificate, key, and the clients' authority if there is one; empty for plain HTTP."""

    @classmethod
    def read(cls, path: Path) -> ConfigSnapshot:
        """Read and try the file at `path` and the files it names. Raises `ConfigError`; then nothing is left open."""
        text = configuration.read(path)
        config = configuration.parse(text, path)
        opened: list[int] = []
        try:
            opened.extend(_memory_file(name.name, _contents(name)) for name in _tls_names(config))
            accepted = cls(config, _memory_file("kmsd.toml", text.encode()), tuple(opened))
        except BaseException:
            for descriptor in opened:
                os.close(descriptor)
            raise
        try:
            if accepted.tls:
                tls_context(*tls_files(accepted.tls))
                refuse_expired(tls_files(accepted.tls).certificate, datetime.now(UTC))
        except CertificateUnusable as exc:
            accepted.close()
            raise ConfigError(_named(str(exc), accepted)) from exc
        return accepted

    @property
    def descriptors(self) -> tuple[int, ...]:
        """Return all descriptors that a worker inherits."""
        return (self.text, *self.tls)

    def close(self) -> None:
        """Release the memory files. Workers that have started keep theirs."""
        for descriptor in self.descriptors:
            os.close(descriptor)


def memory_path(descriptor: int) -> Path:
    """Return a path at which this process opens an inherited memory file again, from its beginning."""
    return Path(f"/proc/self/fd/{descriptor}")


def tls_files(descriptors: tuple[int, ...]) -> TlsFiles:
    """Return the descriptors in `ConfigSnapshot.tls` as file paths."""
    certificate, key, *authority = (memory_path(one) for one in descriptors)
    return TlsFiles(certificate, key, authority[0] if authority else None)


def changes(old: Config, new: Config) -> list[str]:
    """Return the names of all settings in which two configurations differ, such as `listen.address`."""
    return sorted(_changes(old, new, ""))


def need_restart(old: Config, new: Config) -> list[str]:
    """Return the `changes` that a running daemon cannot reload."""
    switched = (old.listen.tls_certificate is None) != (new.listen.tls_certificate is None)
    return [name for name in changes(old, new) if not is_reloadable(name) or (switched and "tls" in name)]


def is_reloadable(name: str) -> bool:
    """True if a running daemon reloads a setting such as `listen.tls_key`."""
    return any(name == known or name.startswith(f"{known}.") for known in RELOADABLE)


def _changes(old: msgspec.Struct, new: msgspec.Struct, prefix: str) -> list[str]:
    found: list[str] = []
    for field, written in zip(old.__struct_fields__, old.__struct_encode_fields__, strict=True):
        before, after = getattr(old, field), getattr(new, field)
        if isinstance(before, msgspec.Struct) and isinstance(after, msgspec.Struct):
            found += _changes(before, after, f"{prefix}{written}.")
        elif before != after:
            found.append(prefix + written)
    return found


def _tls_names(config: Config) -> list[Path]:
    listen = config.listen
    names = (listen.tls_certificate, listen.tls_key, listen.tls_client_ca)
    return [name for name in names if name is not None] if listen.tls_certificate is not None else []


def _contents(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as exc:
        raise ConfigError(f"{path} cannot be read: {exc.strerror}") from exc


def _memory_file(name: str, contents: bytes) -> int:
    """Create a sealed memory file, which no process can change any more. Return its descriptor."""
    descriptor = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with os.fdopen(os.dup(descriptor), "wb") as file:
        file.write(contents)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
    return descriptor


def _named(text: str, accepted: ConfigSnapshot) -> str:
    """Replace the paths of memory files by the original names, which the operator knows."""
    for descriptor, name in zip(accepted.tls, _tls_names(accepted.config), strict=True):
        text = text.replace(str(memory_path(descriptor)), str(name))
    return text
