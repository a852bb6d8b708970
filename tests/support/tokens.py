"""Tokens for tests: SoftHSM2 and NSS softokn in a temporary folder, or the module that the environment names.

    def test_x(token_place: TokenPlace): token = await Pkcs11Token.open(token_place.settings())

A module is initialised once per process for one place: close every token of a place before the next place is used.
`KMSD_TEST_MODULE` (with `KMSD_TEST_TOKEN_LABEL`, `KMSD_TEST_PIN`, `KMSD_TEST_INIT_RESERVED`) names a further module.
`KMSD_TEST_NSS` names the libsoftokn3.so of another NSS than the host's; LD_LIBRARY_PATH must name its folder when the
process starts. `newer_nss` finds the one that has ML-DSA and ML-KEM, for tests that run processes of their own.
"""

from __future__ import annotations

import asyncio
import functools
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from kmsd.adapters.pkcs11 import Pkcs11Token, TokenSettings

SOFTHSM = Path("/usr/lib/softhsm/libsofthsm2.so")
NEWER_NSS = Path(__file__).parents[2] / "scripts" / "newer-nss"
NSS_PLACES = tuple(Path(p) for p in ("/usr/lib/x86_64-linux-gnu/libsoftokn3.so", "/usr/lib/libsoftokn3.so"))
PIN = b"test-pin-1234"
SO_PIN = "12345678"


@dataclass(frozen=True)
class TokenPlace:
    """Where a token lies, and how to reach it."""

    kind: str
    """`softhsm`, `nss` or `named`."""
    module: Path
    label: str
    pin: bytes
    folder: Path
    """Of the test; removed afterwards."""
    objects: Path | None
    """Where the token keeps its objects, if in a folder."""
    init_reserved: str | None = None
    object_label: str = "kmsd"
    environment: dict[str, str] = field(default_factory=dict)
    """What a further process needs to find the same token."""
    so_pin: bytes = SO_PIN.encode()
    """Of a SoftHSM2 token."""

    def settings(self, **changes: Any) -> TokenSettings:
        """Settings that open this token."""
        settings = TokenSettings(
            module=self.module,
            pin=self.pin,
            label=self.label,
            init_reserved=self.init_reserved,
            object_label=self.object_label,
            start_lock=self.folder / "start.lock",
            token_dir_sync=self.objects,
            # On a machine that is busy with other things a token made of software may take its time.
            deadline=60.0,
        )
        return replace(settings, **changes)

    @asynccontextmanager
    async def open(self, **changes: Any) -> AsyncIterator[Pkcs11Token]:
        """A token, open until the end of the block."""
        token = await Pkcs11Token.open(self.settings(**changes))
        try:
            yield token
        finally:
            await token.close()


@contextmanager
def softhsm(folder: Path, *, without: Sequence[str] = (), module: Path = SOFTHSM) -> Iterator[TokenPlace]:
    """A fresh SoftHSM2 token, `without` some mechanisms."""
    objects = folder / "tokens"
    objects.mkdir(parents=True, mode=0o700)
    lines = [
        f"directories.tokendir = {objects}",
        "objectstore.backend = file",
        "log.level = ERROR",
        "library.reset_on_fork = true",
        # SoftHSM 2.6.1 overlooks the first name after the minus sign.
        *([f"slots.mechanisms = -{','.join(('CKM_MD5', *without))}"] if without else []),
    ]
    configuration = folder / "softhsm2.conf"
    configuration.write_text("\n".join(lines) + "\n")
    before = os.environ.get("SOFTHSM2_CONF")
    os.environ["SOFTHSM2_CONF"] = str(configuration)
    try:
        _init_softhsm("kmsd-test")
        environment = {"SOFTHSM2_CONF": str(configuration)}
        yield TokenPlace("softhsm", module, "kmsd-test", PIN, folder, objects, environment=environment)
    finally:
        if before is None:
            os.environ.pop("SOFTHSM2_CONF", None)
        else:
            os.environ["SOFTHSM2_CONF"] = before


def another_softhsm(place: TokenPlace, label: str) -> TokenPlace:
    """A second token in the folder of a SoftHSM2 token."""
    _init_softhsm(label)
    return replace(place, label=label)


def _init_softhsm(label: str) -> None:
    pins = ["--so-pin", SO_PIN, "--pin", PIN.decode()]
    command = ["softhsm2-util", "--init-token", "--free", "--label", label, *pins]
    subprocess.run(command, check=True, capture_output=True)


def nss_module() -> Path | None:
    """NSS softokn, if it is installed, or the one that the environment names."""
    if (named_one := os.environ.get("KMSD_TEST_NSS")) is not None:
        return Path(named_one)
    return next((path for path in NSS_PLACES if path.exists()), None)


def newer_nss() -> Path:
    """The libsoftokn3.so of an NSS that has ML-DSA and ML-KEM, for processes with its folder in LD_LIBRARY_PATH.

    Skips the test, with the reason, where it cannot be had; fails it if KMSD_TEST_POST_QUANTUM is `required`.
    """
    module, reason = _fetched_nss()
    if module is not None:
        return module
    text = f"no token with ML-DSA and ML-KEM: {reason}"
    if os.environ.get("KMSD_TEST_POST_QUANTUM") == "required":
        pytest.fail(text, pytrace=False)
    pytest.skip(text)


@functools.cache
def _fetched_nss() -> tuple[Path | None, str]:
    """What scripts/newer-nss has made, or why it has not."""
    if (named_one := os.environ.get("KMSD_TEST_NSS")) is not None:
        return Path(named_one), ""
    if shutil.which("certutil") is None:
        return None, "certutil is not installed"
    done = subprocess.run([NEWER_NSS], capture_output=True, text=True, check=False, timeout=240)
    if done.returncode != 0:
        lines = done.stderr.splitlines()
        return None, " ".join([lines[-1], *(line for line in lines if line.startswith("E: "))][:2])
    return Path(done.stdout.strip()) / "libsoftokn3.so", ""


@contextmanager
def nss(folder: Path, module: Path | None = None) -> Iterator[TokenPlace]:
    """A fresh NSS key database, for this module or for that of the host."""
    module = module or nss_module()
    if module is None:
        raise FileNotFoundError("libsoftokn3.so")
    database = folder / "nssdb"
    database.mkdir(parents=True, mode=0o700)
    password = folder / "password"
    password.write_bytes(PIN + b"\n")
    subprocess.run(["certutil", "-N", "-d", f"sql:{database}", "-f", password], check=True, capture_output=True)
    reserved = f"configdir='sql:{database}' certPrefix='' keyPrefix='' secmod='secmod.db' flags="
    yield TokenPlace("nss", module, "NSS Certificate DB", PIN, folder, database, reserved)


@contextmanager
def named(folder: Path) -> Iterator[TokenPlace]:
    """The token that the environment names, not made anew: what is labelled `kmsd-contract` is removed from it."""
    place = TokenPlace(
        "named",
        Path(os.environ["KMSD_TEST_MODULE"]),
        os.environ["KMSD_TEST_TOKEN_LABEL"],
        os.environ["KMSD_TEST_PIN"].encode(),
        folder,
        None,
        os.environ.get("KMSD_TEST_INIT_RESERVED"),
        object_label="kmsd-contract",
    )
    _empty(place)
    try:
        yield place
    finally:
        _empty(place)


def _empty(place: TokenPlace) -> None:
    async def destroy_all() -> None:
        async with place.open() as token:
            for report in await token.list_objects():
                await token.destroy(report.object_id)

    with asyncio.Runner() as runner:
        runner.run(destroy_all())


def available() -> list[str]:
    """The kinds of token that this host can make."""
    kinds = []
    if SOFTHSM.exists() and shutil.which("softhsm2-util"):
        kinds.append("softhsm")
    if nss_module() is not None and shutil.which("certutil"):
        kinds.append("nss")
    if "KMSD_TEST_MODULE" in os.environ:
        kinds.append("named")
    return kinds


PLACES = {"softhsm": softhsm, "nss": nss, "named": named}
