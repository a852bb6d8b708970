"""`kmsd backup`: write database, log segments and audit trail to one file, while the daemon serves."""

from __future__ import annotations

import argparse
import os
import time
from datetime import datetime
from pathlib import Path
from typing import Any

from kmsd.app import Components, SystemClock, audit_signer, open_components
from kmsd.backup import create, softhsm
from kmsd.cli import data_owner
from kmsd.cli.commands.operator_audit import administrative_act
from kmsd.cli.os_errors import in_words
from kmsd.cli.progress import shown
from kmsd.config.sections import Config
from kmsd.config.settings import ConfigError
from kmsd.exit_codes import CommandError, ExistsAlready, NotFound


def add_to(commands: Any) -> None:
    """Declare the command."""
    command: argparse.ArgumentParser = commands.add_parser("backup", help="make a backup; the daemon may serve")
    command.add_argument(
        "target",
        metavar="FILE",
        help="must not exist; or a folder, which is made if it is missing, for a name with the time: a name that ends "
        "in `/` or has no suffix is a folder's",
    )
    command.add_argument(
        "--without-token",
        action="store_true",
        help="leave SoftHSM2's files out (a real token's own backup is its vendor's in any case)",
    )
    command.set_defaults(run=run, beforehand=create_folder)


def create_folder(config: Config, options: argparse.Namespace) -> None:
    """Create a missing target folder, for the user that owns the data. Raises `CommandError`, `ConfigError`."""
    target = Path(options.target).absolute()
    if target.exists() or (target.suffix and not options.target.endswith("/")):
        return
    if not target.parent.is_dir():
        raise NotFound(f"the folder {target.parent} does not exist")
    try:
        owner = data_owner.to_become(config.data_dir)
        target.mkdir(mode=0o700)
        if owner is not None:
            os.chown(target, owner.uid, owner.gid)
    except OSError as exc:
        raise CommandError(f"the folder {target} cannot be made: {exc.strerror}") from exc
    print(f"made the folder {target}")


async def run(config: Config, options: argparse.Namespace) -> int:
    """Write the backup and print one line on it. Raises `CommandError`, OSError; then there is no backup."""
    started = time.monotonic()
    target = _target(Path(options.target), SystemClock().now())
    async with open_components(config, "cli") as components:
        signer = await audit_signer(components.store, components.token, needed=True)
        if signer is None:
            raise ConfigError("there is no audit key to sign a backup with: run `kmsd init`")
        token_folder = None if options.without_token else _token_folder(components)
        parameters = {"path": str(target), "withToken": token_folder is not None}
        try:
            async with administrative_act(components, "CreateBackup", parameters) as act:
                with shown("copying", _size(config, token_folder), "B") as advance:
                    result = await create.create(components, signer, target, token_folder, advance)
                act.elements = {
                    "backupId": result.manifest.backup_id,
                    "snapshotAt": result.manifest.snapshot_at,
                    "parts": len(result.manifest.parts),
                    "size": result.size,
                }
        except OSError as exc:
            raise (in_words(exc, "no backup was made") or exc) from exc
    seconds = time.monotonic() - started
    parts = len(result.manifest.parts)
    print(f"{target}: {parts} parts, {result.size} bytes, of {result.manifest.snapshot_at}, {seconds:.1f} s")
    if token_folder is not None:
        print("It holds the SoftHSM2 token: anyone who has it and the PIN has the keys.")
    return 0


def _size(config: Config, token_folder: Path | None) -> int | None:
    """Return about how many bytes are to be copied; None if the database is PostgreSQL's."""
    if config.store.url:
        return None
    folders = [config.logs_dir, config.audit_dir, *([token_folder] if token_folder else [])]
    files = [config.database, *(path for folder in folders for path in folder.rglob("*") if path.is_file())]
    return sum(path.stat().st_size for path in files)


def name_of_backup(now: datetime) -> str:
    """Return the name of a backup in a folder. It has milliseconds: backups may follow each other quickly."""
    return f"kmsd-{now:%Y%m%dT%H%M%S}.{now.microsecond // 1000:03d}Z.backup"


def _target(named: Path, now: datetime) -> Path:
    """Return the path of the backup. Raises `CommandError`."""
    target = (named / name_of_backup(now) if named.is_dir() else named).absolute()
    folder = target.parent
    if target.exists():
        raise ExistsAlready(f"{target} exists already")
    if not folder.is_dir():
        raise NotFound(f"the folder {folder} does not exist")
    if not os.access(folder, os.W_OK | os.X_OK):
        name = data_owner.name_of(os.geteuid())
        problem = f"the folder {folder} cannot be written by {name}, who makes the backup"
        raise CommandError(f"{problem}: chown {name} {folder}, or name another folder")
    return target


def _token_folder(components: Components) -> Path | None:
    """Return SoftHSM2's folder, if that is the token. Raises `ConfigError` if it is, and the folder is not found."""
    info = components.token.info
    folder = softhsm.token_folder(components.config.token, info)
    if folder is None and info.manufacturer.strip() == softhsm.MANUFACTURER:
        raise ConfigError(
            "the folder of this SoftHSM2 token is not found: name SOFTHSM2_CONF in [token] environment, "
            "or leave its files out with --without-token"
        )
    return folder
