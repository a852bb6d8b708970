"""Trial of a backup's SoftHSM2 files, before any part of the backup is put in place.

A copy of the files is opened in a separate process: a module reads the location of its tokens only once, and forged
files may crash the process that reads them. The PIN is the configuration's. Private objects open only if their
creator knew it.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from dataclasses import replace
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from kmsd.app import open_token, set_module_environment, token_settings
from kmsd.backup import softhsm, token_match
from kmsd.backup.manifest import DATABASE, Manifest
from kmsd.backup.token_match import TokenComparison, TokenMismatch
from kmsd.config.sections import Config
from kmsd.config.settings import ConfigError
from kmsd.linux.process_hardening import harden_process
from kmsd.logging_setup import set_up
from kmsd.ports import StoreError, TokenError

_FOLDER = "trial"


async def compare(config: Config, stage: Path, manifest: Manifest) -> TokenComparison:
    """Compare the database and the token of a backup that was unpacked into `stage`. Only `stage` is written to.

    Raises `TokenMismatch`, `TokenError` (`PinRefused`), `StoreError`, `ConfigError`, OSError.
    """
    folder = stage / _FOLDER
    folder.mkdir(mode=0o700)
    shutil.copytree(stage / "token", folder / "tokens")
    (folder / "softhsm2.conf").write_text(softhsm.configuration_with(config.token, folder / "tokens"))
    try:
        answer = await asyncio.to_thread(_ask, config, stage, manifest)
    except EOFError as exc:
        raise TokenMismatch("the PKCS#11 module does not survive reading the token of this backup") from exc
    finally:
        shutil.rmtree(folder)
    if isinstance(answer, Exception):
        raise answer
    return answer


def _ask(*arguments: Any) -> TokenComparison | Exception:
    """Compare in a separate process. Return its result or its exception. Raises EOFError if it ended without one."""
    context = get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(sender, *arguments))
    with receiver:
        with sender:
            process.start()
        try:
            answer: TokenComparison | Exception = receiver.recv()
        finally:
            process.join()
    return answer


def _answer(sender: Connection, config: Config, stage: Path, manifest: Manifest) -> None:
    """Compare and send the result. Runs in the separate process."""
    harden_process()
    set_up("cli", quiet=True)
    set_module_environment(config)
    os.environ[softhsm.CONFIGURATION] = str(stage / _FOLDER / "softhsm2.conf")
    try:
        sender.send(asyncio.run(_opened(config, stage, manifest)))
    except (TokenMismatch, TokenError, StoreError, ConfigError, OSError) as exc:
        sender.send(exc)


async def _opened(config: Config, stage: Path, manifest: Manifest) -> TokenComparison:
    folder = stage / _FOLDER
    configured = token_settings(config, None)
    # A PIN refused by the token of a backup must not count for the daemon's own token.
    settings = replace(configured, token_dir_sync=folder, start_lock=folder / "token.lock", refused_pin=None)
    async with open_token(settings) as token:
        return await token_match.compare(stage / DATABASE, token, manifest)
