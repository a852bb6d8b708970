"""Starting: one login per process, several processes on one token, and many calls at once afterwards."""

from __future__ import annotations

import asyncio
import os
import secrets
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from kmsd.adapters.pkcs11 import Pkcs11Token, TokenSettings
from kmsd.adapters.pkcs11.return_codes import ErrorClass, of_binding
from kmsd.domain.material import Algorithm
from kmsd.ports import NotAuthentic, TokenUnavailable
from tests.support.tokens import TokenPlace

AAD = b"associated"
XAES = Algorithm.XAES_256_GCM
REPOSITORY = Path(__file__).parents[2]

WORKER = """
import asyncio, sys
from pathlib import Path
from kmsd.adapters.pkcs11 import Pkcs11Token, TokenSettings
from kmsd.domain.material import Algorithm

async def main():
    module, label, lock, sentinel, reserved = sys.argv[1:6]
    settings = TokenSettings(
        module=Path(module), pin=sys.stdin.buffer.read(), label=label, start_lock=Path(lock),
        sentinel=bytes.fromhex(sentinel), init_reserved=reserved or None,
    )
    token = await Pkcs11Token.open(settings)
    key = bytes.fromhex(sentinel)
    for _ in range(50):
        sealed = await token.encrypt(key, Algorithm.XAES_256_GCM, b"text", b"associated")
        assert await token.decrypt(key, Algorithm.XAES_256_GCM, sealed, b"associated") == b"text"
    await token.close()
    sys.stdout.write(sealed.hex())

asyncio.run(main())
"""


async def key_of(token: Pkcs11Token) -> bytes:
    """A fresh key."""
    object_id = secrets.token_bytes(16)
    await token.generate_key(object_id, XAES)
    return object_id


def started(place: TokenPlace, key: bytes, count: int) -> list[tuple[int, str, str]]:
    """`count` processes that open the token at the same moment, seal, open and close it."""
    arguments = [place.module, place.label, place.folder / "start.lock", key.hex(), place.init_reserved or ""]
    environment = {**os.environ, **place.environment, "PYTHONPATH": str(REPOSITORY)}
    command, pipe = [sys.executable, "-c", WORKER, *map(str, arguments)], subprocess.PIPE
    processes = [subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, stderr=pipe) for _ in range(count)]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write(place.pin)
        process.stdin.close()
        process.stdin = None
    results = []
    for process in processes:
        out, err = process.communicate(timeout=60)
        results.append((process.returncode, out.decode().splitlines()[-1] if out else "", err.decode()))
    return results


async def test_three_processes_start_at_once(softhsm_place: TokenPlace) -> None:
    """None fails, and each opens what the others sealed."""
    async with softhsm_place.open() as token:
        key = await key_of(token)
    for _ in range(4):
        results = await asyncio.to_thread(started, softhsm_place, key, 3)
        assert [(code, err) for code, _, err in results] == [(0, "")] * 3
        async with softhsm_place.open(sentinel=key) as token:
            for _, text, _ in results:
                assert await token.decrypt(key, XAES, bytes.fromhex(text), AAD) == b"text"


async def test_another_process_makes_and_destroys(softhsm_place: TokenPlace) -> None:
    """Objects of other processes are found although the listing at start did not show them."""
    async with softhsm_place.open() as token:
        key = await key_of(token)
        results = await asyncio.to_thread(started, softhsm_place, key, 1)
        assert await token.decrypt(key, XAES, bytes.fromhex(results[0][1]), AAD) == b"text"


async def test_the_label_and_the_serial_must_fit(token_place: TokenPlace) -> None:
    """A token of another name is not opened; the right serial, or the slot alone, is."""
    async with token_place.open() as token:
        serial, slot = token.info.serial, token._link.require().connection.slot
    with pytest.raises(TokenUnavailable, match="no tokens with label 'other'"):
        await Pkcs11Token.open(token_place.settings(label="other"))
    with pytest.raises(TokenUnavailable, match="no tokens"):
        await Pkcs11Token.open(token_place.settings(serial="feedfeedfeedfeed"))
    async with token_place.open(serial=serial, slot=slot) as token:
        assert token.info.serial == serial


async def test_a_module_that_is_none(tmp_path: Path) -> None:
    """A missing file and a library of another kind are named, and nothing is loaded."""
    for module in (tmp_path / "missing.so", Path("/lib/x86_64-linux-gnu/libc.so.6")):
        with pytest.raises(TokenUnavailable, match="cannot be loaded"):
            await Pkcs11Token.open(TokenSettings(module=module, pin=b"1234", label="any"))


def test_settings_that_make_no_sense(softhsm_place: TokenPlace) -> None:
    """They are refused when they are made."""
    settings = softhsm_place.settings()
    for change in (
        {"label": None},
        {"object_label": ""},
        {"object_label": "kmsd\ud800"},
        {"object_label": "schlüssel"},
        {"sentinel": b"short"},
        {"sessions": 0},
    ):
        with pytest.raises(ValueError, match=r"\w"):
            replace(settings, **change)


async def test_the_start_lock_is_waited_for_and_no_longer(softhsm_place: TokenPlace) -> None:
    """Another process that holds it too long is an error with the file's name, not a hang."""
    lock = softhsm_place.folder / "start.lock"
    holder = await asyncio.create_subprocess_exec("flock", str(lock), "sleep", "60")
    try:
        while not lock.exists():  # noqa: ASYNC110 (it is made by another process)
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        with pytest.raises(TokenUnavailable, match=r"start\.lock"):
            await Pkcs11Token.open(softhsm_place.settings(start_deadline=0.2))
    finally:
        holder.kill()
        await holder.wait()


async def test_a_forked_child_does_not_use_the_token(softhsm_place: TokenPlace) -> None:
    """NSS would give it the parent's random bytes: it is refused before it reaches the module."""
    async with softhsm_place.open() as token:
        connection = token._link.require().connection
        program = os.fork()
        if program == 0:
            try:
                connection.run(lambda session: connection.raw.random(session.handle, 8))
            except TokenUnavailable:
                os._exit(7)
            os._exit(0)
        _, status = os.waitpid(program, 0)  # noqa: ASYNC222 (the child ends at once)
        assert os.waitstatus_to_exitcode(status) == 7
        assert len(await token.random(8)) == 8


async def test_start_finds_the_handles_once(softhsm_place: TokenPlace) -> None:
    """After the listing at start no search is made for a known object; one is made for a new one."""
    async with softhsm_place.open() as token:
        keys = [await key_of(token) for _ in range(5)]
    async with softhsm_place.open(sentinel=keys[0]) as token:
        for key in keys:
            await token.encrypt(key, XAES, b"text", AAD)
        assert token.counters.handle_misses == 0
        token.invalidate(keys[0])
        await token.encrypt(keys[0], XAES, b"text", AAD)
        assert token.counters.handle_misses == 1


async def hammer(token: Pkcs11Token, *, sealed: int, made: int) -> None:
    """Four tasks seal, open and tamper while two make and destroy keys, until so many are done of each."""
    key, done = await key_of(token), {"sealed": 0, "made": 0}

    def goes_on() -> bool:
        return done["sealed"] < sealed or done["made"] < made

    async def seal() -> None:
        while goes_on():
            text = secrets.token_bytes(64)
            blob = await token.encrypt(key, XAES, text, AAD)
            assert await token.decrypt(key, XAES, blob, AAD) == text
            with pytest.raises(NotAuthentic):
                await token.decrypt(key, XAES, blob[:-1] + bytes([blob[-1] ^ 1]), AAD)
            done["sealed"] += 1
            await asyncio.sleep(0)

    async def make() -> None:
        while goes_on():
            fresh = await key_of(token)
            blob = await token.encrypt(fresh, XAES, b"text", AAD)
            assert await token.decrypt(fresh, XAES, blob, AAD) == b"text"
            await token.destroy(fresh)
            done["made"] += 1

    await asyncio.gather(*(seal() for _ in range(4)), *(make() for _ in range(2)))
    await token.destroy(key)


@pytest.mark.parametrize("mode", ["auto", "never"])
async def test_many_calls_at_once(token_place: TokenPlace, mode: str) -> None:
    """No crash, no wrong answer, no session left in use."""
    async with token_place.open(inline=mode) as token:
        await hammer(token, sealed=100, made=10)
        assert token.counters.sessions_in_use == 0
        assert list(await token.list_objects()) == []


@pytest.mark.slow
@pytest.mark.skipif("KMSD_TEST_SLOW" not in os.environ, reason="a minute each; KMSD_TEST_SLOW=1 runs it")
@pytest.mark.parametrize("mode", ["auto", "never"])
async def test_many_more_calls(token_place: TokenPlace, mode: str) -> None:
    """As above, for longer."""
    async with token_place.open(inline=mode) as token:
        await hammer(token, sealed=20_000, made=500)


def test_every_error_of_the_binding_has_a_code() -> None:
    """Unknown ones count as GENERAL_ERROR: the sentinel decides."""
    from pkcs11 import exceptions  # noqa: PLC0415 (here alone)

    assert of_binding(exceptions.UserNotLoggedIn()).error_class is ErrorClass.LOGIN
    assert of_binding(exceptions.PKCS11Error("Unmapped error code 0x68")).rv == 0x68
    assert of_binding(exceptions.PKCS11Error("Initialisation error (not initialized).")).error_class is ErrorClass.LOGIN
    assert of_binding(exceptions.MultipleObjectsReturned()).error_class is ErrorClass.SUSPECT
