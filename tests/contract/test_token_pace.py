"""Fast calls run on the event loop, slow ones beside it, hanging ones are given up; all of it is bounded."""

from __future__ import annotations

import asyncio
import secrets
import threading
import time
from collections.abc import Awaitable, Callable

import pytest
import uvloop

from kmsd.adapters.pkcs11 import Pkcs11Token
from kmsd.adapters.pkcs11.inline_policy import InlinePolicy
from kmsd.adapters.pkcs11.return_codes import Ckr
from kmsd.domain.key_spec import KeySpec, KeyUsage, MacAlgorithm, SigningAlgorithm
from kmsd.domain.material import Algorithm
from kmsd.ports import TokenBusy, TokenTimeout, TokenUnavailable
from tests.support.polling import until_async
from tests.support.shim import Function, Shim
from tests.support.tokens import TokenPlace

AAD = b"associated"
XAES = Algorithm.XAES_256_GCM


async def key_of(token: Pkcs11Token) -> bytes:
    """A fresh key."""
    object_id = secrets.token_bytes(16)
    await token.generate_key(object_id, XAES)
    return object_id


def test_a_measured_kind_runs_inline() -> None:
    """A kind that was measured as fast runs on the loop; others do not."""
    policy = InlinePolicy("auto", 100e-6)
    assert "seal" not in policy.inline
    policy.measure("seal", lambda: None)
    policy.measure("open", lambda: time.sleep(0.001))
    assert "seal" in policy.inline
    assert "open" not in policy.inline
    assert "sign" not in policy.inline


def test_a_token_that_turns_slow_moves_to_threads_once() -> None:
    """One call in four that is interrupted ends nothing, nor do cold caches. A token that is slow stays on threads."""
    policy = InlinePolicy("auto", 100e-6)
    policy.measure("seal", lambda: None)
    for _ in range(100):
        policy.record("seal", 400e-6)
    assert "seal" in policy.inline
    for number in range(2000):
        policy.record("seal", 0.003 if number % 4 == 0 else 15e-6)
        assert "seal" in policy.inline
    for _ in range(16):
        policy.record("seal", 0.003)
    assert "seal" not in policy.inline
    for _ in range(100):
        policy.record("seal", 15e-6)
    assert "seal" not in policy.inline


@pytest.mark.parametrize(("mode", "expected"), [("never", False), ("always", True)])
def test_the_policy_obeys_the_setting(mode: str, expected: bool) -> None:  # noqa: FBT001
    """`never` and `always` do not measure."""
    policy = InlinePolicy(mode, 100e-6)  # type: ignore[arg-type]
    policy.measure("seal", lambda: None)
    assert ("seal" in policy.inline) is expected
    assert ("random" in policy.inline) is expected


@pytest.mark.parametrize("mode", ["never", "always"])
async def test_where_calls_run(softhsm_place: TokenPlace, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """`never` keeps the data path off the event loop, `always` on it."""
    async with softhsm_place.open(inline=mode) as token:
        raw = token._link.require().connection.raw
        threads: set[int] = set()
        original = raw.gcm_encrypt

        def watched(*arguments: object) -> bytes:
            threads.add(threading.get_ident())
            return original(*arguments)  # type: ignore[arg-type]

        key = await key_of(token)
        sealed = await token.encrypt(key, XAES, b"text", AAD)
        monkeypatch.setattr(raw, "gcm_encrypt", watched)
        await asyncio.gather(*(token.encrypt(key, XAES, b"text", AAD) for _ in range(50)))
        assert await token.decrypt(key, XAES, sealed, AAD) == b"text"
        assert (threads == {threading.get_ident()}) is (mode == "always")


async def test_where_signatures_and_macs_run(softhsm_place: TokenPlace, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the event loop if they are fast; RSA always on threads."""
    async with softhsm_place.open(inline_below=60.0) as token:
        curve, rsa, mac_key = (secrets.token_bytes(16) for _ in range(3))
        await token.generate_key_pair(curve, KeySpec.ECC_NIST_P256, KeyUsage.SIGN_VERIFY)
        raw = token._link.require().connection.raw
        threads: list[int] = []
        original = raw.sign

        def watched(*arguments: object) -> bytes:
            threads.append(threading.get_ident())
            return original(*arguments)  # type: ignore[arg-type]

        monkeypatch.setattr(raw, "sign", watched)
        await token.sign(curve, SigningAlgorithm.ECDSA_SHA_256, bytes(32), is_digest=True)
        monkeypatch.setattr(raw, "sign", original)
        await token.generate_key_pair(rsa, KeySpec.RSA_2048, KeyUsage.SIGN_VERIFY)
        await token.generate_mac_key(mac_key, KeySpec.HMAC_256)
        monkeypatch.setattr(raw, "sign", watched)
        await token.sign(curve, SigningAlgorithm.ECDSA_SHA_256, bytes(32), is_digest=True)
        await token.mac(mac_key, MacAlgorithm.HMAC_SHA_256, b"message")
        await token.sign(rsa, SigningAlgorithm.RSASSA_PSS_SHA_256, b"message", is_digest=False)
        here = threading.get_ident()
        assert [thread == here for thread in threads] == [True, True, True, False]


async def test_a_token_that_turns_slow_leaves_the_loop_alone(shim_place: TokenPlace, shim: Shim) -> None:
    """After some calls of 5 ms the calls run on threads, several at once."""
    async with shim_place.open() as token:
        key = await key_of(token)
        token._calls.inline_policy.measure("seal", lambda: None)  # a busy machine may have measured it as slow
        await token.encrypt(key, XAES, b"text", AAD)
        shim.delay(Function.ENCRYPT, 0.005)
        for _ in range(32):
            await token.encrypt(key, XAES, b"text", AAD)
        assert "seal" not in token._calls.inline_policy.inline
        shim.hang(Function.ENCRYPT, on=True)
        calls = [asyncio.create_task(token.encrypt(key, XAES, b"text", AAD)) for _ in range(40)]
        # The loop goes on while they hang, and several are in the token at once.
        await until_async(lambda: shim.hung >= 2)
        assert not any(call.done() for call in calls)
        shim.hang(Function.ENCRYPT, on=False)
        await asyncio.gather(*calls)


async def test_a_hanging_call_is_given_up(shim_place: TokenPlace, shim: Shim) -> None:
    """TokenTimeout at the deadline; other calls go on in another thread; the late result is dropped."""
    async with shim_place.open(inline="never", deadline=0.2, sessions=1) as token:
        key = await key_of(token)
        await token.encrypt(key, XAES, b"text", AAD)
        shim.hang(Function.ENCRYPT, on=True)
        with pytest.raises(TokenTimeout):
            await token.encrypt(key, XAES, b"text", AAD)
        assert token.counters.abandoned == 1
        assert len(await token.random(16)) == 16
        shim.reset()
        await until_async(lambda: token.counters.abandoned == 0)
        assert shim.hung == 0
        await token.encrypt(key, XAES, b"text", AAD)
        assert token.counters.sessions_in_use == 0


async def test_the_number_of_hanging_calls_is_bounded(shim_place: TokenPlace, shim: Shim) -> None:
    """Beyond the limit every call fails at once, until a hanging one returns."""
    async with shim_place.open(inline="never", deadline=0.1, sessions=2, abandoned_limit=3) as token:
        key = await key_of(token)
        shim.hang(Function.ENCRYPT, on=True)
        results = await asyncio.gather(
            *(token.encrypt(key, XAES, b"text", AAD) for _ in range(12)), return_exceptions=True
        )
        assert all(isinstance(result, TokenUnavailable) for result in results)
        for _ in range(3):
            with pytest.raises(TokenUnavailable):
                await token.encrypt(key, XAES, b"text", AAD)
        assert shim.hung <= 3 + 1
        with pytest.raises(TokenUnavailable, match="hang in the token"):
            await token.random(16)
        shim.reset()
        await until_async(lambda: token.counters.abandoned == 0)
        assert len(await token.random(16)) == 16
        await token.encrypt(key, XAES, b"text", AAD)


async def test_the_queue_is_bounded(shim_place: TokenPlace, shim: Shim) -> None:
    """More callers than may wait: TokenBusy at once, and the others are served."""
    async with shim_place.open(inline="never", sessions=1, queue_limit=5) as token:
        key = await key_of(token)
        await token.encrypt(key, XAES, b"text", AAD)
        shim.hang(Function.ENCRYPT, on=True)
        calls = [asyncio.create_task(token.encrypt(key, XAES, b"text", AAD)) for _ in range(20)]
        await until_async(lambda: sum(call.done() for call in calls) >= 13)
        shim.hang(Function.ENCRYPT, on=False)
        results = await asyncio.gather(*calls, return_exceptions=True)
        served = [result for result in results if isinstance(result, bytes)]
        busy = [result for result in results if isinstance(result, TokenBusy)]
        assert len(served) + len(busy) == 20
        assert 5 <= len(served) <= 7


async def test_a_cancelled_caller_leaves_nothing_behind(shim_place: TokenPlace, shim: Shim) -> None:
    """A call under way ends in its thread; one that was not begun is dropped."""
    async with shim_place.open(inline="never", sessions=1) as token:
        key = await key_of(token)
        await token.encrypt(key, XAES, b"text", AAD)
        shim.reset()
        shim.hang(Function.ENCRYPT, on=True)
        tasks = [asyncio.create_task(token.encrypt(key, XAES, b"text", AAD)) for _ in range(5)]
        await until_async(lambda: shim.hung == 1)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        shim.hang(Function.ENCRYPT, on=False)
        assert len(await token.random(8)) == 8
        assert shim.calls(Function.ENCRYPT) == 1
        assert (token.counters.sessions_in_use, token.counters.waiting) == (0, 0)


async def test_calls_under_way_are_finished_by_close(shim_place: TokenPlace, shim: Shim) -> None:
    """`close` waits for them."""
    async with shim_place.open(inline="never") as token:
        key = await key_of(token)
        shim.delay(Function.ENCRYPT, 0.1)
        call = asyncio.create_task(token.encrypt(key, XAES, b"text", AAD))
        await asyncio.sleep(0.03)
        await token.close()
        assert len(await call) == 24 + 4 + 16
    # Closing twice, as the block just did, is no error.


async def test_the_breaker_answers_at_once(shim_place: TokenPlace, shim: Shim) -> None:
    """While the token is away nobody waits for it, and one attempt at a time is made to bring it back."""
    async with shim_place.open() as token:
        key = await key_of(token)
    async with shim_place.open(sentinel=key, reconnect_first=0.02, reconnect_longest=0.05) as token:
        shim.reset()
        shim.fail(Function.LOGIN, Ckr.DEVICE_ERROR)
        shim.fail(Function.GET_ATTRIBUTE_VALUE, Ckr.DEVICE_ERROR)
        with pytest.raises(TokenUnavailable):
            await token.check()
        for _ in range(1000):
            with pytest.raises(TokenUnavailable):
                await token.encrypt(key, XAES, b"text", AAD)
        assert shim.calls(Function.ENCRYPT) == 0
        await until_async(lambda: shim.calls(Function.LOGIN) >= 3)
        shim.reset()

        async def well() -> bool:
            try:
                await token.check()
            except TokenUnavailable:
                return False
            return True

        while not await well():  # noqa: ASYNC110 (the token heals by itself)
            await asyncio.sleep(0.01)
        assert token.counters.reconnects == 1


def on_uvloop(test: Callable[[], Awaitable[None]]) -> None:
    """Run it there."""

    async def run() -> None:
        await test()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())


def test_on_uvloop(token_place: TokenPlace) -> None:
    """All of it works on uvloop, inline and in threads."""

    async def everything() -> None:
        for mode in ("auto", "never"):
            async with token_place.open(inline=mode) as token:
                key = await key_of(token)
                texts = await asyncio.gather(*(token.encrypt(key, XAES, b"text", AAD) for _ in range(50)))
                opened = await asyncio.gather(*(token.decrypt(key, XAES, text, AAD) for text in texts))
                assert opened == [b"text"] * 50
                await token.destroy(key)

    on_uvloop(everything)
