"""Every adapter of a port goes through the same contract tests."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from kmsd.adapters.pkcs11 import Pkcs11Token
from tests.contract.stores import STORES, Pair
from tests.support import shim as shims
from tests.support.tokens import PLACES, TokenPlace, available, softhsm


@pytest.fixture(params=available())
def token_place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[TokenPlace]:
    """A fresh token of each kind that this host can make."""
    with PLACES[request.param](tmp_path) as place:
        yield place


@pytest.fixture
async def token(token_place: TokenPlace) -> AsyncIterator[Pkcs11Token]:
    """A token of each kind, open."""
    async with token_place.open() as opened:
        yield opened


@pytest.fixture
def softhsm_place(tmp_path: Path) -> Iterator[TokenPlace]:
    """A fresh SoftHSM2 token, for faults that need its folder."""
    if "softhsm" not in available():
        pytest.skip("SoftHSM2 is not installed")
    with softhsm(tmp_path) as place:
        yield place


@pytest.fixture(scope="session")
def shim_module(tmp_path_factory: pytest.TempPathFactory) -> shims.Shim:
    """The shim, built and loaded once: a module stays in the process that loaded it."""
    if shims.compiler() is None or "softhsm" not in available():
        pytest.skip("the shim needs a C compiler and SoftHSM2")
    return shims.Shim(shims.build(tmp_path_factory.mktemp("shim")))


@pytest.fixture
def shim(shim_module: shims.Shim) -> Iterator[shims.Shim]:
    """The shim, bending nothing yet."""
    shim_module.reset()
    yield shim_module
    shim_module.reset()


@pytest.fixture
def shim_place(shim: shims.Shim, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TokenPlace]:
    """A fresh SoftHSM2 token behind the shim."""
    with softhsm(tmp_path, module=shim.path) as place:
        monkeypatch.setenv("KMSD_SHIM_MODULE", "/usr/lib/softhsm/libsofthsm2.so")
        yield place


@pytest.fixture(name="stores", params=STORES)
async def _stores(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Pair]:
    """One store of each adapter as two processes have it open."""
    async with STORES[request.param](tmp_path) as opened:
        yield opened
