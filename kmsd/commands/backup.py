"""`kmsd backup`: one file with database, log segments and audit trail, made while the daemon serves."""

from __future__ import annotations

import argparse
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Any

from kmsd.app import Rooms, SystemClock, audit_signer, open_rooms
from kmsd.backup import making, softhsm
from kmsd.commands.acts import administrative_act
from kmsd.config import Config, ConfigError


def add_to(commands: Any) -> None:
    """Declare the command."""
    command: argparse.ArgumentParser = commands.add_parser("backup", help="make a backup; the daemon may serve")
    command.add_argument("target", type=Path, metavar="FILE", help="must not exist; or a folder, for a name with time")
    command.add_argument(
        "--without-token",
        action="store_true",
        help="leave SoftHSM2's files out (a real token's own backup is its vendor's in any case)",
    )
    command.set_defaults(run=run)


async def run(config: Config, options: argparse.Namespace) -> int:
    """One line on what was made."""
    started = time.monotonic()
    target = _target(options.target, SystemClock().now())
    async with open_rooms(config, "cli") as rooms:
        signer = await audit_signer(rooms.store, rooms.token, needed=True)
        if signer is None:
            raise ConfigError("there is no audit key to sign a backup with: run `kmsd init`")
        try:
            token_folder = None if options.without_token else _token_folder(rooms)
            parameters = {"path": str(target), "withToken": token_folder is not None}
            async with administrative_act(rooms, "CreateBackup", parameters) as act:
                made = await making.make(rooms, signer, target, token_folder)
                act.elements = {
                    "backupId": made.manifest.backup_id,
                    "snapshotAt": made.manifest.snapshot_at,
                    "parts": len(made.manifest.parts),
                    "size": made.size,
                }
        except OSError as exc:
            print(f"kmsd: no backup was made: {exc}", file=sys.stderr)
            return 1
    seconds = time.monotonic() - started
    parts = len(made.manifest.parts)
    print(f"{target}: {parts} parts, {made.size} bytes, of {made.manifest.snapshot_at}, {seconds:.1f} s")
    if token_folder is not None:
        print("It holds the SoftHSM2 token: whoever has it and the PIN has the keys.")
    return 0


def _target(given: Path, now: datetime) -> Path:
    """Raises `ConfigError`."""
    target = given / f"kmsd-{now:%Y%m%dT%H%M%SZ}.backup" if given.is_dir() else given
    if target.exists():
        raise ConfigError(f"{target} exists already")
    if not target.parent.is_dir():
        raise ConfigError(f"the folder {target.parent} does not exist")
    return target.absolute()


def _token_folder(rooms: Rooms) -> Path | None:
    """SoftHSM2's, if that is the token. Raises `ConfigError` if it is, and its folder is not found."""
    info = rooms.token.info
    folder = softhsm.token_folder(rooms.config.token, info)
    if folder is None and info.manufacturer.strip() == softhsm.MANUFACTURER:
        raise ConfigError(
            "the folder of this SoftHSM2 token is not found: name SOFTHSM2_CONF in [token] environment, "
            "or leave its files out with --without-token"
        )
    return folder
