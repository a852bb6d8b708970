"""Objects made in a module are counted, and SoftHSM2 needs a new process after too many."""

from __future__ import annotations

import secrets

import pytest

from kmsd.adapters.pkcs11 import Pkcs11Token
from kmsd.config.constraints import MIN_OBJECTS
from kmsd.domain.material import Algorithm
from tests.support.polling import until_async
from tests.support.tokens import TokenPlace

AAD = b"associated"
XAES = Algorithm.XAES_256_GCM


async def key_of(token: Pkcs11Token) -> bytes:
    """A fresh key."""
    if XAES not in token.capabilities.algorithms:
        pytest.skip("the token does not derive")
    object_id = secrets.token_bytes(16)
    await token.generate_key(object_id, XAES)
    return object_id


def made(token: Pkcs11Token) -> int:
    """Objects made so far."""
    return token.counters.session_objects


async def test_what_counts(token: Pkcs11Token) -> None:
    """A key, and each key that is derived from it; not its use."""
    start = made(token)
    key = await key_of(token)
    generated = made(token)
    assert generated > start
    sealed = await token.encrypt(key, XAES, b"text", AAD)
    derived = made(token)
    assert derived == generated + 2  # the derived key, and the value that all derivations of the key begin with
    for _ in range(100):
        assert await token.decrypt(key, XAES, sealed, AAD) == b"text"
        await token.encrypt(key, XAES, b"text", AAD)
    assert made(token) == derived
    token.invalidate(key)
    assert await token.decrypt(key, XAES, sealed, AAD) == b"text"
    assert made(token) == derived + 2


async def test_a_new_process_after_too_many(token_place: TokenPlace) -> None:
    """Needed where the module leaks, and only there."""
    async with token_place.open(session_objects=MIN_OBJECTS) as token:
        key = await key_of(token)
        while made(token) < MIN_OBJECTS:
            assert not token.needs_new_process
            await token.encrypt(key, XAES, b"text", AAD)
            token.invalidate(key)
        assert token.needs_new_process == token.info.manufacturer.startswith("SoftHSM")


async def test_a_start_makes_few(token: Pkcs11Token) -> None:
    """The self-tests of everything stay far below the least limit, or workers would be replaced without end."""
    await token.import_capabilities()
    await token.key_offers()
    assert 0 < made(token) < MIN_OBJECTS / 2


async def test_a_new_initialisation_begins_anew(token: Pkcs11Token) -> None:
    """C_Finalize frees what leaked."""
    key = await key_of(token)
    for _ in range(100):
        await token.encrypt(key, XAES, b"text", AAD)
        token.invalidate(key)
    before, login = made(token), token._link.require()
    assert before > 200
    token._link.open_circuit(login, "the test says so")
    await until_async(lambda: token._link.login is not None)
    assert made(token) < 100
