"""`kmsd init` on any module: the token by label, serial or slot; the pages on installing, run as they stand."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.daemon import credentials_of, write_config
from tests.support.page_commands import commands
from tests.support.tokens import PLACES, TokenPlace, available, softhsm

ROOT = Path(__file__).parents[2]


def kmsd(config: Path, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    """The program, as a process."""
    command = [sys.executable, "-m", "kmsd", "--config", str(config), *arguments]
    return subprocess.run(command, capture_output=True, check=False, timeout=120)


def name_token(config: Path, place: TokenPlace, lines: str) -> None:
    """Have the configuration name its token by `lines`."""
    config.write_text(re.sub(rf'label = "{place.label}"\n', f"{lines}\n", config.read_text()))


def slot_and_serial(folder: Path) -> tuple[int, str]:
    """Of the token in a SoftHSM2 folder."""
    environment = {**os.environ, "SOFTHSM2_CONF": str(folder / "softhsm2.conf")}
    done = subprocess.run(
        ["softhsm2-util", "--show-slots"], env=environment, capture_output=True, text=True, check=True
    )
    slot, serial = re.search(r"Slot (\d+)", done.stdout), re.search(r"Serial number:\s+(\w+)", done.stdout)
    assert slot is not None
    assert serial is not None
    return int(slot[1]), serial[1]


@pytest.mark.parametrize("by", ["serial", "slot", "all"])
def test_the_token_is_found(tmp_path: Path, by: str) -> None:
    """By each selector alone, and by all together; the daemon's objects are made in it."""
    with softhsm(tmp_path / "token") as place:
        slot, serial = slot_and_serial(tmp_path / "token")
        lines = {"label": f'label = "{place.label}"', "serial": f'serial = "{serial}"', "slot": f"slot = {slot}"}
        config = write_config(tmp_path, place, 1)
        name_token(config, place, "\n".join(lines.values()) if by == "all" else lines[by])
        done = kmsd(config, "init", "--format", "json")
        assert done.returncode == 0, done.stderr
        assert credentials_of(done.stdout).secret


@pytest.mark.parametrize("lines", ['serial = "0123"', 'label = "kmsd-test"\nslot = 99', ""])
def test_no_token_fits(tmp_path: Path, lines: str) -> None:
    """One line says what was looked for; no PIN is offered, no object made."""
    with softhsm(tmp_path / "token") as place:
        config = write_config(tmp_path, place, 1)
        name_token(config, place, lines)
        done = kmsd(config, "init")
        assert done.returncode == (75 if lines else 78)
        assert (b"no tokens with" if lines else b"token needs label, serial or slot") in done.stderr
        assert b"Traceback" not in done.stderr
        assert done.stdout == b""
        (folder,) = (tmp_path / "token" / "tokens").iterdir()
        assert {path.name for path in folder.glob("*.object")} == {"token.object"}


@pytest.mark.skipif("nss" not in available(), reason="NSS is not installed")
def test_init_on_another_module(tmp_path: Path) -> None:
    """NSS softokn as the main token, by its label."""
    with PLACES["nss"](tmp_path / "token") as place:
        config = write_config(tmp_path, place, 1, custody="object")
        config.write_text(
            config.read_text().replace("[token]\n", f'[token]\ninit_reserved = "{place.init_reserved}"\n')
        )
        assert kmsd(config, "init").returncode == 0
        assert kmsd(config, "check").returncode < 2


def test_a_token_without_gcm(tmp_path: Path) -> None:
    """Is of no use; `kmsd init` says so, and makes no object."""
    with softhsm(tmp_path / "token", without=("CKM_AES_GCM",)) as place:
        config = write_config(tmp_path, place, 1)
        done = kmsd(config, "init")
        assert done.returncode == 78
        assert b"AES_GCM" in done.stderr
        (folder,) = (tmp_path / "token" / "tokens").iterdir()
        assert {path.name for path in folder.glob("*.object")} == {"token.object"}
        assert b"FAIL the token can hold no keys of this API" in kmsd(config, "check").stdout


@pytest.mark.skipif("nss" not in available(), reason="NSS is not installed")
def test_the_page_on_development_tokens(tmp_path: Path) -> None:
    """softhsm/README.md, run as it stands."""
    shutil.copytree(ROOT / "softhsm", tmp_path / "softhsm")
    path = f"{ROOT / '.venv' / 'bin'}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", commands("softhsm/README.md", "token")],
        cwd=tmp_path,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "AKIA" in done.stdout
    assert "works through the import token" in done.stdout
