"""The PIN: refused, it is offered once; and it is never shown."""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import replace
from pathlib import Path

import pytest

from kmsd.adapters.pkcs11 import Pkcs11Token, refused_pin
from kmsd.adapters.pkcs11.return_codes import Ckr
from kmsd.domain.material import Algorithm
from kmsd.ports import PinRefused, TokenUnavailable
from tests.support.shim import Function, Shim
from tests.support.tokens import PIN, TokenPlace

AAD = b"associated"
XAES = Algorithm.XAES_256_GCM


async def test_a_pin_that_is_refused_later_stops_everything(shim_place: TokenPlace, shim: Shim) -> None:
    """At the return of the token the PIN is offered once; refused, it is never offered again."""
    sentinel, key = secrets.token_bytes(16), secrets.token_bytes(16)
    async with shim_place.open() as token:
        for object_id in (sentinel, key):
            await token.generate_key(object_id, XAES)
    async with shim_place.open(sentinel=sentinel) as token:
        shim.reset()
        shim.fail(Function.LOGIN, Ckr.PIN_INCORRECT)
        connection = token._link.require().connection
        connection.raw._do("C_CloseAllSessions", connection.slot)
        for _ in range(500):
            try:
                await token.encrypt(key, XAES, b"text", AAD)
            except PinRefused:
                break
            except TokenUnavailable:
                await asyncio.sleep(0.01)
        with pytest.raises(PinRefused):
            await token.check()
        await asyncio.sleep(0.3)
        assert shim.calls(Function.LOGIN) == 1


async def test_a_wrong_pin_is_offered_once(shim_place: TokenPlace, shim: Shim) -> None:
    """One C_Login, a clear error without the PIN in it, and the token counts one failure."""
    with pytest.raises(PinRefused, match="PIN") as raised:
        await Pkcs11Token.open(shim_place.settings(pin=b"wrong-pin"))
    assert shim.calls(Function.LOGIN) == 1
    assert "wrong-pin" not in str(raised.value)
    async with shim_place.open() as token:
        assert len(await token.random(4)) == 4


async def test_a_refused_pin_is_remembered(shim_place: TokenPlace, shim: Shim, tmp_path: Path) -> None:
    """No later opening offers it, until PIN or token have changed or the memory was removed; the right PIN ends it."""
    memory = tmp_path / "refused-pin"

    async def opened(pin: bytes | None = None) -> None:
        given = {} if pin is None else {"pin": pin}
        settings = replace(shim_place.settings(**given), refused_pin=memory)
        await (await Pkcs11Token.open(settings)).close()

    for _ in range(3):
        with pytest.raises(PinRefused) as raised:
            await opened(b"wrong-pin")
    assert "refused this PIN on 2" in str(raised.value)
    assert shim.calls(Function.LOGIN) == 1
    assert b"wrong" not in memory.read_bytes()
    assert memory.stat().st_mode & 0o777 == 0o600
    with pytest.raises(PinRefused):
        await opened(b"another-pin")
    assert shim.calls(Function.LOGIN) == 2
    memory.write_text(memory.read_text().replace('"serial":"', '"serial":"other'))
    with pytest.raises(PinRefused):
        await opened(b"another-pin")  # as far as is known, this is another token
    assert shim.calls(Function.LOGIN) == 3
    memory.write_bytes(b"{")
    with pytest.raises(PinRefused, match="cannot be read"):
        await opened()
    assert shim.calls(Function.LOGIN) == 3
    assert refused_pin.clear(memory)
    await opened()
    assert shim.calls(Function.LOGIN) == 4
    assert not memory.exists()


async def test_a_wrong_pin_on_each_token(token_place: TokenPlace) -> None:
    """Each token's refusal is understood, and nothing stays behind that keeps the right PIN from working."""
    with pytest.raises(PinRefused):
        await Pkcs11Token.open(token_place.settings(pin=b"wrong-pin"))
    async with token_place.open() as token:
        assert len(await token.random(4)) == 4


async def test_a_second_token_object_needs_the_pin_too(token_place: TokenPlace) -> None:
    """Login is per process: a second opening compares the PIN instead of riding on the first one's login."""
    async with token_place.open() as first:
        with pytest.raises(PinRefused):
            await Pkcs11Token.open(token_place.settings(pin=b"wrong-pin"))
        async with token_place.open() as second:
            key = secrets.token_bytes(16)
            await second.generate_key(key, XAES)
        sealed = await first.encrypt(key, XAES, b"text", AAD)
        assert await first.decrypt(key, XAES, sealed, AAD) == b"text"
        await first.destroy(key)


def test_the_pin_is_not_shown(softhsm_place: TokenPlace) -> None:
    """Not even by the settings."""
    assert PIN.decode() not in repr(softhsm_place.settings())
