"""Query systemd about kmsd's units: the sources of the service's credentials, and the socket's addresses."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

SERVICE = "kmsd.service"
SOCKET = "kmsd.socket"
_SECONDS = 20
_SETTINGS = {"LoadCredential": False, "LoadCredentialEncrypted": True}
"""Settings that name a credential, and True if its file is encrypted."""
_SPECIFIERS = {"%": "%", "E": "/etc", "S": "/var/lib", "t": "/run", "n": SERVICE, "N": "kmsd", "p": "kmsd"}
"""Specifiers that a path of a credential may need (systemd.unit(5), SPECIFIERS)."""
_COMMENTS = ("#", ";")


class UnitError(Exception):
    """systemd cannot be queried, or has no answer; the text says why."""


class Source(msgspec.Struct, frozen=True):
    """File from which the service manager takes a credential."""

    path: Path
    encrypted: bool
    """True if the file was written by `systemd-creds encrypt`."""

    def read(self, name: str) -> bytes:
        """Return the decrypted credential of this name. Raises `UnitError`."""
        if not self.path.is_absolute():
            raise UnitError(f"{SERVICE} takes the credential {name} from {self.path}, which is not the path of a file")
        if self.encrypted:
            return _output("systemd-creds", "decrypt", f"--name={name}", str(self.path), "-")
        try:
            return self.path.read_bytes()
        except OSError as exc:
            problem = f"{self.path} cannot be read: {exc.strerror}"
            raise UnitError(f"{problem}; {SERVICE} takes the credential {name} from it") from exc


def credential_sources() -> Mapping[str, Source]:
    """Return the credentials that the service is given, by name. Raises `UnitError`.

    `systemctl show` prints no property of this type, so the unit and its drop-ins are read.
    """
    sources: dict[str, Source] = {}
    for name, value in _settings(_output("systemctl", "cat", SERVICE).decode(errors="replace")):
        encrypted = _SETTINGS.get(name)
        if encrypted is None:
            continue
        if not value:
            # An empty assignment clears earlier assignments of both settings (systemd.exec(5)).
            sources.clear()
            continue
        credential_name, _, path = value.partition(":")
        sources[credential_name] = Source(Path(_expanded(path or credential_name)), encrypted)
    return sources


def credential(name: str) -> bytes:
    """Return the credential that the service is given under this name. Raises `UnitError`."""
    source = credential_sources().get(name)
    if source is None:
        raise UnitError(f"{SERVICE} is given no credential {name}: add LoadCredential={name}:/path/of/the/file")
    return source.read(name)


def socket_addresses() -> list[str]:
    """Return the addresses of kmsd.socket, such as `127.0.0.1:8480`; empty without the unit. Raises `UnitError`."""
    printed = _output("systemctl", "show", SOCKET, "-p", "Listen").decode(errors="replace")
    # One line for each: `Listen=127.0.0.1:8480 (Stream)`.
    return re.findall(r"^Listen=(\S+) \(Stream\)$", printed, re.MULTILINE)


def starts_with(configuration: Path) -> bool:
    """True if the service reads this configuration. Raises `UnitError`."""
    printed = _output("systemctl", "show", SERVICE, "-p", "ExecStart").decode(errors="replace")
    return str(configuration.absolute()) in printed.split()


def user() -> str:
    """Return the user that the service runs as; empty for root, or without the unit. Raises `UnitError`."""
    printed = _output("systemctl", "show", SERVICE, "-p", "User").decode(errors="replace")
    return printed.strip().removeprefix("User=")


def _settings(text: str) -> Iterator[tuple[str, str]]:
    """Yield name and value of each setting in the [Service] sections of unit files (systemd.syntax(7))."""
    section, begun = "", ""
    for line in text.splitlines():
        if line.lstrip().startswith(_COMMENTS):
            continue
        if line.endswith("\\"):
            begun += f"{line[:-1]} "
            continue
        whole, begun = (begun + line).strip(), ""
        if whole.startswith("["):
            section = whole
        elif section == "[Service]" and "=" in whole:
            name, _, value = whole.partition("=")
            yield name.strip(), value.strip()


def _expanded(path: str) -> str:
    """Replace specifiers. Raises `UnitError` for one that is not in `_SPECIFIERS`."""

    def value(found: re.Match[str]) -> str:
        if found[1] not in _SPECIFIERS:
            raise UnitError(f"{SERVICE} names {path} as a credential: only systemd knows what {found[0]} stands for")
        return _SPECIFIERS[found[1]]

    return re.sub(r"%(.)", value, path)


def _output(program: str, *arguments: str) -> bytes:
    """Return a program's output. Raises `UnitError` if it is not installed, does not end, or fails."""
    try:
        done = subprocess.run([program, *arguments], capture_output=True, check=False, timeout=_SECONDS)
    except FileNotFoundError as exc:
        raise UnitError(f"{program} is not installed") from exc
    except subprocess.TimeoutExpired as exc:
        raise UnitError(f"{program} did not answer within {_SECONDS} s") from exc
    if done.returncode != 0:
        errors = done.stderr.decode(errors="replace").strip().splitlines() or [f"status {done.returncode}"]
        raise UnitError(f"{program} {arguments[0]} failed: {errors[-1]}")
    return done.stdout
