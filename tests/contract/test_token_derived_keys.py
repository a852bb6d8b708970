"""The life of derived keys: how long one is used, when it ends, and that it ends in the token too."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator

import pytest
from pkcs11 import Attribute

from kmsd.adapters.pkcs11 import Pkcs11Token
from kmsd.domain.material import Algorithm
from kmsd.ports import NotAuthentic
from tests.support.tokens import TokenPlace

AAD = b"associated"
XAES = Algorithm.XAES_256_GCM


class SettableClock:
    """A monotonic clock that stands still."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        """Seconds."""
        return self.now


@pytest.fixture
def clock() -> SettableClock:
    """What the ages of derived keys are measured by."""
    return SettableClock()


@pytest.fixture
async def small(token_place: TokenPlace, clock: SettableClock) -> AsyncIterator[Pkcs11Token]:
    """A token that keeps few derived keys, for few messages."""
    settings = token_place.settings(seal_messages=5, derived_keys=4, derived_key_age=60.0)
    token = await Pkcs11Token.open(settings, clock=clock)
    try:
        yield token
    finally:
        await token.close()


async def key_of(token: Pkcs11Token) -> bytes:
    """A fresh key."""
    if XAES not in token.capabilities.algorithms:
        pytest.skip("the token does not derive")
    object_id = secrets.token_bytes(16)
    await token.generate_key(object_id, XAES)
    return object_id


def in_token(token: Pkcs11Token) -> int:
    """Session objects in the token: the derived keys, and nothing else."""
    connection = token._link.require().connection
    return len(connection.raw.find(connection.keeper.handle, {Attribute.TOKEN: False}))


async def prefixes(token: Pkcs11Token, key: bytes, count: int) -> list[bytes]:
    """The nonce prefixes of so many messages."""
    return [(await token.encrypt(key, XAES, b"text", AAD))[:12] for _ in range(count)]


async def test_a_prefix_is_used_for_so_many_messages(small: Pkcs11Token) -> None:
    """After `seal_messages` a new prefix is drawn, exactly."""
    drawn = await prefixes(small, await key_of(small), 15)
    assert [len(set(drawn[i : i + 5])) for i in (0, 5, 10)] == [1, 1, 1]
    assert len(set(drawn)) == 3


async def test_a_prefix_is_used_for_so_long(small: Pkcs11Token, clock: SettableClock) -> None:
    """At `derived_key_age` a new prefix is drawn."""
    key = await key_of(small)
    (first,) = await prefixes(small, key, 1)
    clock.now += 59.9
    assert await prefixes(small, key, 1) == [first]
    clock.now += 0.1
    assert await prefixes(small, key, 1) != [first]


async def test_each_object_has_its_own_prefix(small: Pkcs11Token) -> None:
    """Nonce prefixes are not shared between objects."""
    one, other = await key_of(small), await key_of(small)
    assert await prefixes(small, one, 1) != await prefixes(small, other, 1)


async def test_no_more_keys_than_allowed_are_kept(small: Pkcs11Token) -> None:
    """The least recently used one ends, in the token too; what it sealed still opens."""
    key = await key_of(small)
    sealed = [await small.encrypt(key, XAES, b"text", AAD) for _ in range(40)]
    assert small.counters.derived_keys == 4
    assert in_token(small) == 4
    misses = small.counters.derived_misses
    assert await small.decrypt(key, XAES, sealed[-1], AAD) == b"text"
    assert small.counters.derived_misses == misses
    assert await small.decrypt(key, XAES, sealed[0], AAD) == b"text"
    assert small.counters.derived_misses == misses + 1
    assert in_token(small) == 4


async def test_a_text_that_is_not_authentic_evicts_nothing(small: Pkcs11Token) -> None:
    """Its derived key is destroyed, and those of authentic texts stay: nobody's forgeries cost another's speed."""
    key = await key_of(small)
    sealed = [await small.encrypt(key, XAES, b"text", AAD) for _ in range(40)]
    kept = sealed[-1]
    for number in range(20):
        with pytest.raises(NotAuthentic):
            await small.decrypt(key, XAES, bytes([number] * 24) + kept[24:], AAD)
    assert small.counters.derived_keys == 4
    misses = small.counters.derived_misses
    assert await small.decrypt(key, XAES, kept, AAD) == b"text"
    assert small.counters.derived_misses == misses
    assert in_token(small) <= 5  # the last forgery's ends with the next derivation


async def test_old_keys_are_swept(small: Pkcs11Token, clock: SettableClock) -> None:
    """One that nobody asks for ends as well, by the sweep."""
    await prefixes(small, await key_of(small), 7)
    assert in_token(small) == 2
    clock.now += 60
    derived = small._link.require().derived
    derived.sweep()
    derived.destroy_retired()
    assert (small.counters.derived_keys, in_token(small)) == (0, 0)


async def test_an_old_key_does_not_open(small: Pkcs11Token, clock: SettableClock) -> None:
    """At its age a key is derived anew rather than used."""
    key = await key_of(small)
    sealed = await small.encrypt(key, XAES, b"text", AAD)
    clock.now += 60
    misses = small.counters.derived_misses
    assert await small.decrypt(key, XAES, sealed, AAD) == b"text"
    assert small.counters.derived_misses == misses + 1
    assert in_token(small) == 1


async def test_forgotten_keys_are_destroyed(small: Pkcs11Token) -> None:
    """`forget` drops them at once, the token a moment later; other objects keep theirs."""
    one, other = await key_of(small), await key_of(small)
    await prefixes(small, one, 1)
    await prefixes(small, other, 1)
    small.invalidate(one)
    assert small.counters.derived_keys == 1
    for _ in range(200):
        if in_token(small) == 1:
            break
        await asyncio.sleep(0.005)
    assert in_token(small) == 1


async def test_a_key_that_ends_in_use_is_destroyed_afterwards(small: Pkcs11Token) -> None:
    """A call that holds a derived key may finish with it."""
    key = await key_of(small)
    await prefixes(small, key, 1)
    epoch = small._link.require()
    held = epoch.derived.for_sealing(key)
    assert held is not None
    epoch.invalidate(key)
    epoch.derived.destroy_retired()
    assert in_token(small) == 1
    session = epoch.connection.keeper
    assert epoch.connection.raw.gcm_encrypt(session.handle, held.handle, None, b"text", AAD, session.scratch)
    epoch.derived.done(held)
    epoch.derived.destroy_retired()
    assert in_token(small) == 0


async def test_evictions_beside_use(token_place: TokenPlace) -> None:
    """Four threads open under more prefixes than are kept, and every text opens."""
    async with token_place.open(inline="never", derived_keys=2, seal_messages=1) as token:
        key = await key_of(token)
        sealed = [await token.encrypt(key, XAES, bytes([i]), AAD) for i in range(8)]
        order = [i % 8 for i in range(400)]
        opened = await asyncio.gather(*(token.decrypt(key, XAES, sealed[i], AAD) for i in order[:200]))
        opened += await asyncio.gather(*(token.decrypt(key, XAES, sealed[i], AAD) for i in order[200:]))
        assert opened == [bytes([i]) for i in order]
        assert token.counters.derived_keys == 2
        token._link.require().derived.destroy_retired()
        assert in_token(token) == 2
        await token.destroy(key)
        assert in_token(token) == 0


async def test_nothing_is_left_by_close(token_place: TokenPlace) -> None:
    """A second user of the module sees no derived key of a token that was closed."""
    async with token_place.open() as watcher:
        async with token_place.open() as token:
            key = await key_of(token)
            await prefixes(token, key, 3)
            assert in_token(watcher) == 1
        assert in_token(watcher) == 0
        await watcher.destroy(key)
