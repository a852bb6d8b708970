"""Tries SoftHSM2's files from a backup, before anything of the backup is put in place.

A copy of the files is opened in a process of its own, since a module reads where its tokens are once, and since files
that somebody forged may end the process that reads them. The PIN is the configuration's: objects that are private open
only if they were made by somebody who knew it.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

from kmsd.adapters.pkcs11.token import Pkcs11Token
from kmsd.app import set_module_environment, token_settings
from kmsd.backup import comparison, softhsm
from kmsd.backup.comparison import Comparison, OtherToken
from kmsd.backup.manifest import DATABASE, Manifest
from kmsd.config import Config
from kmsd.logs import set_up
from kmsd.secrecy import keep_to_oneself

_FOLDER = "trial"


async def compare(config: Config, stage: Path, manifest: Manifest) -> Comparison:
    """Compare the database and the token of a backup that was unpacked into `stage`. Only `stage` is written to.

    Raises `OtherToken`, `TokenUnavailable` (`PinRefused`), `StoreUnavailable`, OSError.
    """
    folder = stage / _FOLDER
    folder.mkdir(mode=0o700)
    shutil.copytree(stage / "token", folder / "tokens")
    (folder / "softhsm2.conf").write_text(softhsm.configuration_with(config.token, folder / "tokens"))
    try:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            return await asyncio.get_running_loop().run_in_executor(pool, _compare, config, stage, manifest)
    except BrokenProcessPool as exc:
        raise OtherToken("the PKCS#11 module does not survive reading the token of this backup") from exc
    finally:
        shutil.rmtree(folder)


def _compare(config: Config, stage: Path, manifest: Manifest) -> Comparison:
    """Run by the process of the trial."""
    keep_to_oneself()
    set_up("cli", quiet=True)
    set_module_environment(config)
    os.environ[softhsm.CONFIGURATION] = str(stage / _FOLDER / "softhsm2.conf")
    return asyncio.run(_opened(config, stage, manifest))


async def _opened(config: Config, stage: Path, manifest: Manifest) -> Comparison:
    folder = stage / _FOLDER
    settings = replace(token_settings(config, None), token_dir_sync=folder, start_lock=folder / "token.lock")
    token = await Pkcs11Token.open(settings)
    try:
        return await comparison.compare(stage / DATABASE, token, manifest)
    finally:
        await token.close()
