"""`kmsd check`: systemd units that contradict the configuration, and permissions of systemd's credential files."""

from __future__ import annotations

import argparse
import os
import stat
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path

from kmsd.cli.commands.check_findings import FAIL, OK, WARN, Finding
from kmsd.cli.credentials import fetch_credentials
from kmsd.cli.data_owner import name_of
from kmsd.config.sections import Config
from kmsd.config.settings import ConfigError, Credential
from kmsd.linux import systemd_units

FILES, UNIT = "files", "unit"


def look_as_root(config: Config, options: argparse.Namespace) -> None:
    """Collect what only the invoking user can see, before the change of user, and fetch credentials.

    Puts the findings into `options.seen`. A credential that cannot be fetched is a finding, and the check goes on.
    """
    options.seen = list(_seen(config, options))


def _seen(config: Config, options: argparse.Namespace) -> Iterator[Finding]:
    keys = [config.listen.tls_key] if config.listen.tls_key is not None else []
    named = [path for path in (*config.pins, *config.store_secrets, *keys) if isinstance(path, Credential)]
    if os.geteuid() == 0 and named:
        yield from _sources(named)
    for path in named:
        if options.no_token and path in config.pins:
            continue  # it is not used
        try:
            fetch_credentials([path])
        except ConfigError as exc:
            yield Finding(FAIL, FILES, str(exc))
    yield from _address(config, options.config)


def _sources(wanted: Iterable[Credential]) -> Iterator[Finding]:
    """Check the permissions of systemd's credential files. Errors of systemd are reported when one is fetched."""
    try:
        sources = systemd_units.credential_sources()
    except systemd_units.UnitError:
        return
    for path in wanted:
        source = sources.get(path.credential)
        if source is not None and source.path.is_absolute():
            yield _source(path, source)


def _source(path: Credential, source: systemd_units.Source) -> Finding:
    try:
        found = source.path.stat()
    except OSError as exc:
        return Finding(FAIL, FILES, f"{source.path}, from which systemd takes {path}: {exc.strerror}")
    mode, shown = stat.S_IMODE(found.st_mode), f"{source.path}, from which systemd takes {path},"
    remedy = f"chown root:root {source.path}; chmod 600 {source.path}"
    if found.st_uid != 0:
        return Finding(FAIL, FILES, f"{shown} belongs to {name_of(found.st_uid)}: {remedy}")
    if mode & 0o022:
        return Finding(FAIL, FILES, f"{shown} can be written by others than root (mode {mode:04o}): {remedy}")
    if mode & 0o044 and not source.encrypted:
        return Finding(FAIL, FILES, f"{shown} can be read by others than root (mode {mode:04o}): {remedy}")
    return Finding(OK, FILES, f"{shown} has mode {mode:04o}")


def _address(config: Config, path: Path) -> Iterator[Finding]:
    """Check that the configured address is kmsd.socket's, which counts if the unit has one."""
    try:
        addresses = systemd_units.socket_addresses() if systemd_units.starts_with(path) else []
    except systemd_units.UnitError:
        return  # a host without systemd, or a sandbox
    if not addresses:
        return
    shown, socket = config.listen.address.removeprefix("unix:"), ", ".join(addresses)
    if _is_written(path) and [shown] != addresses:
        text = f"[listen] address is {shown}, and kmsd.socket listens on {socket}, which counts: remove the line"
        yield Finding(WARN, UNIT, text)
    else:
        yield Finding(OK, UNIT, f"kmsd.socket listens on {socket}")
    if not config.public_url and [shown] != addresses:
        text = f"public_url is not set: env files would name {config.client_url or 'nothing'}, not {socket}"
        yield Finding(WARN, UNIT, text)


def _is_written(path: Path) -> bool:
    """True if the file itself names an address."""
    try:
        return "address" in tomllib.loads(path.read_text()).get("listen", {})
    except (OSError, ValueError):
        return False
