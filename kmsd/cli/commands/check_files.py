"""`kmsd check`: permissions of the files that the daemon reads and writes."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

from kmsd.adapters.pkcs11 import softhsm_token_copy
from kmsd.adapters.pkcs11.softhsm_token_copy import CopyState, Identity
from kmsd.cli.commands.check_findings import FAIL, OK, WARN, Finding, Severity
from kmsd.cli.data_owner import name_of
from kmsd.config.sections import Config, TokenConfig
from kmsd.config.settings import Credential

TOPIC = "files"
_MAX_LISTED = 5
"""Files listed by name when many have the same fault."""
_COPIES: Mapping[CopyState, tuple[Severity, str]] = {
    CopyState.KEPT: (OK, "has a copy"),
    CopyState.MISSING: (WARN, "has no copy: the next login makes one"),
    CopyState.STALE: (WARN, "is not what its copy says, as after a change of the PIN: the next login renews the copy"),
    CopyState.RESTORABLE: (WARN, "is damaged: the next login restores it from its copy"),
    CopyState.LOST: (FAIL, "is damaged and has no copy: its keys are lost without a backup"),
}
"""Findings on SoftHSM2's token.object."""


def findings(config: Config, path: Path) -> Iterator[Finding]:
    """Yield the findings on configuration, secrets and data."""
    yield _configuration(path)
    for secret in (*config.pins, *config.store_secrets, config.listen.tls_key):
        # `check_unit` checks the sources of credentials as root; systemd protects the copies that it passes.
        if secret is not None and not isinstance(secret, Credential):
            yield _secret(secret)
    databases = [] if config.store.url else [config.database]
    for own in (config.data_dir, *databases, config.audit_dir):
        yield _own(own)
    yield from _owners(config)
    for token in (config.token, *config.other_tokens.values()):
        if token.dir_sync is not None:
            yield from _token_objects(token, token.dir_sync)


def _configuration(path: Path) -> Finding:
    """Check the configuration file: a user who can write or replace it decides on the token and the audit trail."""
    try:
        found = path.stat()
        folder = path.resolve().parent.stat()
    except OSError as exc:
        return Finding(FAIL, TOPIC, f"{path}: {exc.strerror}")
    mode = stat.S_IMODE(found.st_mode)
    if mode & 0o022:
        return Finding(FAIL, TOPIC, f"{path} can be written by others than its owner (mode {mode:04o})")
    if folder.st_mode & 0o022 and not folder.st_mode & stat.S_ISVTX:
        return Finding(FAIL, TOPIC, f"{path.resolve().parent}, the folder of {path.name}, can be written by others")
    if found.st_uid not in {0, os.geteuid()}:
        return Finding(FAIL, TOPIC, f"{path} belongs to {name_of(found.st_uid)}")
    return Finding(OK, TOPIC, f"{path} has mode {mode:04o}")


def _secret(path: Path) -> Finding:
    """Check a PIN or private key file: readable by its owner only, or root's for the daemon's group."""
    try:
        found = path.stat()
    except OSError as exc:
        return Finding(FAIL, TOPIC, f"{path}: {exc.strerror}")
    mode = stat.S_IMODE(found.st_mode)
    if mode & 0o007:
        return Finding(FAIL, TOPIC, f"{path} is open to everybody (mode {mode:04o})")
    if mode & 0o020:
        return Finding(FAIL, TOPIC, f"{path} can be written by its group (mode {mode:04o})")
    # The daemon can read, but not change, root's file for the daemon's own group.
    for_daemon = found.st_uid == 0 and found.st_gid == os.getegid() != 0
    if mode & 0o040 and not for_daemon:
        return Finding(WARN, TOPIC, f"{path} can be read by its group (mode {mode:04o})")
    return Finding(OK, TOPIC, f"{path} has mode {mode:04o}")


def _own(path: Path) -> Finding:
    """Check the daemon's own data."""
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError as exc:
        return Finding(FAIL, TOPIC, f"{path}: {exc.strerror}")
    if mode & 0o007:
        return Finding(FAIL, TOPIC, f"{path} is open to everybody (mode {mode:04o})")
    if mode & 0o020:
        return Finding(FAIL, TOPIC, f"{path} can be written by its group (mode {mode:04o})")
    return Finding(OK, TOPIC, f"{path} has mode {mode:04o}")


def _owners(config: Config) -> Iterator[Finding]:
    """Find files that a command run as root left behind: the daemon cannot write them, and fails later."""
    try:
        owner = config.data_dir.stat().st_uid
        strangers = sorted(
            path
            for folder in {config.data_dir, config.audit_dir, config.logs_dir}
            for path in (folder, *folder.glob("*"))
            if path.exists() and path.stat().st_uid != owner
        )
    except OSError as exc:
        yield Finding(FAIL, TOPIC, f"{config.data_dir} cannot be listed: {exc.strerror}")
        return
    name = name_of(owner)
    if strangers:
        shown = ", ".join(str(path) for path in strangers[:_MAX_LISTED]) + (
            " and others" if len(strangers) > _MAX_LISTED else ""
        )
        yield Finding(FAIL, TOPIC, f"not {name}'s, as {config.data_dir} is: {shown}")
    else:
        yield Finding(OK, TOPIC, f"all data belongs to {name}")


def _token_objects(token: TokenConfig, root: Path) -> Iterator[Finding]:
    """Check the copies of SoftHSM2's token.object. Other tokens have none below `root`."""
    identity = Identity(token.label or None, token.serial or None, token.slot)
    try:
        for folder, state in softhsm_token_copy.states(root, identity):
            severity, text = _COPIES[state]
            yield Finding(severity, TOPIC, f"{folder / softhsm_token_copy.NAME} {text}")
    except OSError as exc:
        yield Finding(FAIL, TOPIC, f"{root} cannot be read: {exc.strerror}")
