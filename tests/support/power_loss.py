"""Losses of power, and the return."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tests.support.file_systems import mount

LOSSES = int(os.environ.get("KMSD_TEST_POWER_LOSSES", "3"))


OPTIONS = (("commit=300",), ("commit=300", "noauto_da_alloc"), ("commit=300", "data=writeback", "noauto_da_alloc"))
"""`commit=300`: the kernel does not write by itself what nobody has asked to be synced, as it would every 5 s.
`noauto_da_alloc`: nor when a file is replaced (ext4(5)): a program that does not sync loses what it has written."""


def come_back(image: Path, copy: Path, disk: Path, *options: str) -> None:
    """The copy in the place of the original."""
    subprocess.run(["umount", str(disk)], check=True)
    copy.replace(image)
    mount(image, disk, *options)
