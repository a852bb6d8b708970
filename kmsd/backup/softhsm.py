"""Location of a SoftHSM2 token: a folder of files, for which there is no vendor's backup. Other tokens have none."""

from __future__ import annotations

import os
import re
from pathlib import Path

from kmsd.config.sections import TokenConfig
from kmsd.ports import TokenInfo

MANUFACTURER = "SoftHSM project"
CONFIGURATION = "SOFTHSM2_CONF"
"""Environment variable with the path of SoftHSM2's configuration."""
_DEFAULT_CONFIGURATION = Path("/etc/softhsm/softhsm2.conf")
_SETTING = "directories.tokendir"
_FOLDER = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def token_root(config: TokenConfig) -> Path | None:
    """Return `directories.tokendir` of the configured SoftHSM2; None if the module does not look like one."""
    for line in _configuration(config).splitlines():
        if (value := _tokendir(line)) is not None:
            return Path(value)
    return None


def configuration_with(config: TokenConfig, root: Path) -> str:
    """Return the text of the SoftHSM2 configuration that `config` names, with the tokens in `root`."""
    lines = _configuration(config).splitlines()
    return "".join(f"{line if _tokendir(line) is None else f'{_SETTING} = {root}'}\n" for line in lines)


def _tokendir(line: str) -> str | None:
    """Return the value of the setting, if this line sets it."""
    name, _, value = line.partition("=")
    return value.strip() or None if name.strip() == _SETTING else None


def _configuration(config: TokenConfig) -> str:
    """Return the text of SoftHSM2's configuration; empty if it is not SoftHSM2, or cannot be read."""
    # The module's path may be a link, such as one that a package manager keeps.
    if "softhsm" not in config.module.resolve().name.lower():
        return ""
    named = config.environment.get(CONFIGURATION) or os.environ.get(CONFIGURATION)
    try:
        return (Path(named) if named else _DEFAULT_CONFIGURATION).read_text()
    except OSError:
        return ""


def folder_of(root: Path, serial: str) -> Path | None:
    """Return the folder of the token with this serial number, which is the end of the name without hyphens."""
    for folder in sorted(root.iterdir()):
        if _FOLDER.fullmatch(folder.name) and folder.name.replace("-", "").endswith(serial.strip()):
            return folder
    return None


def token_folder(config: TokenConfig, info: TokenInfo) -> Path | None:
    """Return the folder of the open token, if it is SoftHSM2's. Raises OSError."""
    root = token_root(config) if info.manufacturer.strip() == MANUFACTURER else None
    return None if root is None else folder_of(root, info.serial)
