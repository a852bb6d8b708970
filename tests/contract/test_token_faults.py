"""The token fails, lies, or goes away: what is certain is told, nothing else, and it heals by itself."""

from __future__ import annotations

import asyncio
import gc
import secrets
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from kmsd.adapters.pkcs11 import Pkcs11Token
from kmsd.adapters.pkcs11.return_codes import Ckr
from kmsd.adapters.pkcs11.session_pool import SessionPool
from kmsd.domain.key_spec import KeySpec, KeyUsage, SigningAlgorithm
from kmsd.domain.material import Algorithm
from kmsd.ports import (
    MechanismMissing,
    NoSuchObject,
    NotAuthentic,
    TokenError,
    TokenUnavailable,
)
from tests.support.shim import Function, Shim
from tests.support.tokens import TokenPlace, softhsm

AAD = b"associated"
XAES, GCM = Algorithm.XAES_256_GCM, Algorithm.AES_256_GCM


def new_id() -> bytes:
    """A fresh object id."""
    return secrets.token_bytes(16)


async def made(place: TokenPlace, count: int = 3) -> list[bytes]:
    """Object ids of fresh XAES keys; the first serves as sentinel."""
    ids = [new_id() for _ in range(count)]
    async with place.open() as token:
        for object_id in ids:
            await token.generate_key(object_id, XAES)
    return ids


async def until_well(call: Callable[[], Awaitable[object]], within: float = 10.0) -> None:
    """Wait for the token to heal; only TokenUnavailable may come meanwhile."""
    end = asyncio.get_running_loop().time() + within
    while True:
        try:
            await call()
        except TokenUnavailable:
            assert asyncio.get_running_loop().time() < end, "did not heal"
            await asyncio.sleep(0.01)
        else:
            return


def files_of(place: TokenPlace) -> set[Path]:
    """The object files of a SoftHSM token."""
    assert place.objects is not None
    return set(place.objects.glob("*/*.object"))


async def test_token_folder_away_and_back(softhsm_place: TokenPlace) -> None:
    """While it is away: TokenUnavailable, at once, and never NoSuchObject. Back: all is well without a restart."""
    sentinel, key, other = await made(softhsm_place)
    assert softhsm_place.objects is not None
    away = softhsm_place.folder / "away"
    async with softhsm_place.open(sentinel=sentinel) as token:
        sealed = await token.encrypt(key, XAES, b"text", AAD)
        softhsm_place.objects.rename(away)
        softhsm_place.objects.mkdir()
        for _ in range(3):
            for call in (
                lambda: token.encrypt(other, XAES, b"text", AAD),
                lambda: token.encrypt(new_id(), XAES, b"text", AAD),
                lambda: token.attributes(other),
                lambda: token.sign(other, SigningAlgorithm.ECDSA_SHA_256, bytes(32), is_digest=True),
                lambda: token.generate_key(new_id(), XAES),
                lambda: token.destroy(other),
                token.list_objects,
                token.check,
            ):
                with pytest.raises(TokenUnavailable):
                    await call()
        softhsm_place.objects.rmdir()
        away.rename(softhsm_place.objects)
        await until_well(token.check)
        assert await token.decrypt(key, XAES, sealed, AAD) == b"text"
        await token.encrypt(other, XAES, b"text", AAD)
        assert len(await token.list_objects()) == 3
        assert token.counters.reconnects == 1


async def test_lost_logins_leave_nothing(softhsm_place: TokenPlace) -> None:
    """A token that comes and goes does not fill the memory with sessions and their buffers."""
    sentinel, key = await made(softhsm_place, 2)
    assert softhsm_place.objects is not None
    away = softhsm_place.folder / "away"
    gc.collect()  # what other tests have left
    async with softhsm_place.open(sentinel=sentinel) as token:
        for _ in range(3):
            softhsm_place.objects.rename(away)
            softhsm_place.objects.mkdir()
            with pytest.raises(TokenUnavailable):
                await token.encrypt(key, XAES, b"text", AAD)
            softhsm_place.objects.rmdir()
            away.rename(softhsm_place.objects)
            await until_well(token.check)
        assert token.counters.reconnects == 3
        # The present one, and the last that ended: at that moment somebody may still be told of it.
        assert sum(isinstance(one, SessionPool) for one in gc.get_objects()) <= 2


async def test_one_object_removed_beneath(softhsm_place: TokenPlace) -> None:
    """The token is well and the object is gone: NoSuchObject, though a handle was remembered."""
    sentinel, key = await made(softhsm_place, 2)
    before = files_of(softhsm_place)
    async with softhsm_place.open(sentinel=sentinel) as token:
        doomed = new_id()
        await token.generate_key(doomed, XAES)
        (new_file,) = files_of(softhsm_place) - before
        new_file.unlink()
        with pytest.raises(NoSuchObject):
            await token.encrypt(doomed, XAES, b"text", AAD)
        with pytest.raises(NoSuchObject):
            await token.encrypt(doomed, XAES, b"text", AAD)
        await token.encrypt(key, XAES, b"text", AAD)
        assert token.counters.reconnects == 0


async def test_an_object_overwritten_with_rubbish(softhsm_place: TokenPlace) -> None:
    """It does not work any more, the others do, and the token is not taken for gone."""
    sentinel, key = await made(softhsm_place, 2)
    before = files_of(softhsm_place)
    async with softhsm_place.open(sentinel=sentinel) as token:
        doomed = new_id()
        await token.generate_key(doomed, GCM)
        (new_file,) = files_of(softhsm_place) - before
        new_file.write_bytes(b"rubbish")
        with pytest.raises(TokenError) as raised:
            await token.encrypt(doomed, GCM, b"text", AAD)
        assert not isinstance(raised.value, TokenUnavailable)
        await token.encrypt(key, XAES, b"text", AAD)
        await token.check()


async def test_leftovers_of_a_killed_process(softhsm_place: TokenPlace) -> None:
    """Half-written object files neither keep the token from starting nor the good objects from being listed."""
    sentinel, key = await made(softhsm_place, 2)
    before = files_of(softhsm_place)
    async with softhsm_place.open(sentinel=sentinel) as token:
        await token.generate_key(new_id(), XAES)
    (whole,) = files_of(softhsm_place) - before
    content, folder = whole.read_bytes(), whole.parent
    whole.unlink()
    for number, cut in enumerate(range(0, len(content), 40)):
        junk = folder / f"{number:08d}-0000-0000-0000-000000000000.object"
        junk.write_bytes(content[:cut])
        junk.with_suffix(".lock").touch()
    async with softhsm_place.open(sentinel=sentinel) as token:
        reports = await token.list_objects()
        good = {report.object_id for report in reports if not report.problem}
        assert good >= {sentinel, key}
        assert any(report.problem for report in reports)
        await token.encrypt(key, XAES, b"text", AAD)
        await token.generate_key(new_id(), XAES)
        await token.check()


async def test_duplicates_of_an_id_are_an_error(softhsm_place: TokenPlace) -> None:
    """Two objects of one id: neither is used, both are reported."""
    sentinel, _ = await made(softhsm_place, 2)
    before = files_of(softhsm_place)
    twin = new_id()
    async with softhsm_place.open(sentinel=sentinel) as token:
        await token.generate_key(twin, XAES)
    (file,) = files_of(softhsm_place) - before
    shutil.copy(file, file.with_name("11111111-2222-3333-4444-555555555555.object"))
    async with softhsm_place.open(sentinel=sentinel) as token:
        with pytest.raises(TokenError, match="more than one object"):
            await token.encrypt(twin, XAES, b"text", AAD)
        problems = [report.problem for report in await token.list_objects() if report.object_id == twin]
        assert problems == ["another object of this kind has the same CKA_ID"] * 2


@pytest.mark.parametrize("way", ["sessions", "module"])
async def test_everything_closed_beneath(token_place: TokenPlace, way: str) -> None:
    """C_CloseAllSessions or C_Finalize by somebody else: no wrong answer, and all is well again soon."""
    sentinel, key, other = await made(token_place)
    async with token_place.open(sentinel=sentinel) as token:
        sealed = await token.encrypt(key, XAES, b"text", AAD)
        connection = token._link.require().connection
        if way == "sessions":
            connection.raw._do("C_CloseAllSessions", connection.slot)
        else:
            connection.raw.finalize()
        await until_well(lambda: token.encrypt(other, XAES, b"text", AAD))
        await until_well(lambda: token.decrypt(key, XAES, sealed, AAD))
        await until_well(lambda: token.generate_key(new_id(), XAES))
        await token.check()
    async with token_place.open() as token:
        for report in await token.list_objects():
            await token.destroy(report.object_id)


async def test_sessions_dead_one_by_one(token_place: TokenPlace) -> None:
    """A session closed beneath is replaced, and the call tried again: nobody notices."""
    sentinel, key = await made(token_place, 2)
    async with token_place.open(sentinel=sentinel) as token:
        sealed = await token.encrypt(key, XAES, b"text", AAD)
        epoch = token._link.require()
        for session in epoch.connection._free:
            session.binding.close()
        assert await token.decrypt(key, XAES, sealed, AAD) == b"text"
        epoch.owner.session.binding.close()
        assert await token.decrypt(key, XAES, sealed, AAD) == b"text"
        await token.encrypt(key, XAES, b"text", AAD)
        assert token.counters.reconnects == 0


async def test_another_token_in_its_place(softhsm_place: TokenPlace, tmp_path: Path) -> None:
    """A token without the sentinel is not used, whatever its label and PIN."""
    sentinel, _ = await made(softhsm_place, 2)
    with (
        softhsm(tmp_path / "second") as second,
        pytest.raises(TokenUnavailable, match="sentinel"),
    ):
        await Pkcs11Token.open(second.settings(sentinel=sentinel))


async def test_without_gcm_the_token_says_what_is_lost(tmp_path: Path) -> None:
    """A SoftHSM that lacks CKM_AES_GCM: open, of no use, and honest about it."""
    with softhsm(tmp_path, without=["CKM_AES_GCM"]) as place:
        async with place.open() as token:
            assert token.capabilities.algorithms == token.capabilities.opens == frozenset()
            assert {name for name, _ in token.capabilities.lacking} == {"CKM_AES_GCM", "CKM_AES_ECB_ENCRYPT_DATA"}
            assert token.capabilities.mechanisms == {"C_GenerateRandom", "CKM_ECDSA"}
            with pytest.raises(MechanismMissing, match="AES_256_GCM"):
                await token.generate_key(new_id(), GCM)
            assert len(await token.random(16)) == 16


async def test_without_derivation_the_other_algorithm_remains(tmp_path: Path) -> None:
    """A SoftHSM that cannot derive seals by AES-256-GCM."""
    with softhsm(tmp_path, without=["CKM_AES_ECB_ENCRYPT_DATA", "CKM_ECDSA"]) as place:
        async with place.open() as token:
            assert token.capabilities.algorithms == token.capabilities.opens == {GCM, Algorithm.AES_256_GCM_IV16}
            key = new_id()
            await token.generate_key(key, GCM)
            assert await token.decrypt(key, GCM, await token.encrypt(key, GCM, b"text", AAD), AAD) == b"text"
            with pytest.raises(MechanismMissing):
                await token.generate_key_pair(new_id(), KeySpec.ECC_NIST_P256, KeyUsage.SIGN_VERIFY)
            await token.check()


# --- Faults of single calls, through the shim -------------------------------------------------------


async def test_an_object_that_falls_short_is_destroyed(shim_place: TokenPlace, shim: Shim) -> None:
    """The token shows EXTRACTABLE on what it made: TokenError, and nothing is left."""
    sentinel, _ = await made(shim_place, 2)
    async with shim_place.open(sentinel=sentinel) as token:
        before = files_of(shim_place)
        shim.lie()
        with pytest.raises(TokenError, match="CKA_EXTRACTABLE is not False"):
            await token.generate_key(new_id(), GCM)
        with pytest.raises(TokenError, match="CKA_EXTRACTABLE is not False"):
            await token.generate_key_pair(new_id(), KeySpec.ECC_NIST_P256, KeyUsage.SIGN_VERIFY)
        shim.reset()
        assert files_of(shim_place) == before


async def test_a_creation_that_fails_after_it_worked(shim_place: TokenPlace, shim: Shim) -> None:
    """The object of a failed call is not left behind."""
    sentinel, _ = await made(shim_place, 2)
    async with shim_place.open(sentinel=sentinel) as token:
        before = files_of(shim_place)
        shim.fail(Function.GENERATE_KEY, Ckr.DEVICE_MEMORY)
        with pytest.raises(TokenError):
            await token.generate_key(new_id(), XAES)
        shim.reset()
        assert files_of(shim_place) == before
        assert len(await token.list_objects()) == 2


@pytest.mark.parametrize("rv", [Ckr.GENERAL_ERROR, Ckr.FUNCTION_FAILED, Ckr.ENCRYPTED_DATA_INVALID])
async def test_decryption_fails_on_a_well_token(shim_place: TokenPlace, shim: Shim, rv: Ckr) -> None:
    """Any of these from C_Decrypt, with a sentinel that answers, means bad data."""
    sentinel, key = await made(shim_place, 2)
    async with shim_place.open(sentinel=sentinel) as token:
        sealed = await token.encrypt(key, XAES, b"text", AAD)
        shim.fail(Function.DECRYPT, rv)
        with pytest.raises(NotAuthentic):
            await token.decrypt(key, XAES, sealed, AAD)
        shim.reset()
        assert await token.decrypt(key, XAES, sealed, AAD) == b"text"


async def test_decryption_fails_on_a_sick_token(shim_place: TokenPlace, shim: Shim) -> None:
    """The same code, with a sentinel that does not answer, says nothing about the data; then it heals."""
    sentinel, key = await made(shim_place, 2)
    async with shim_place.open(sentinel=sentinel) as token:
        sealed = await token.encrypt(key, XAES, b"text", AAD)
        shim.fail(Function.DECRYPT, Ckr.GENERAL_ERROR)
        shim.fail(Function.GET_ATTRIBUTE_VALUE, Ckr.DEVICE_ERROR)
        with pytest.raises(TokenUnavailable):
            await token.decrypt(key, XAES, sealed, AAD)
        with pytest.raises(TokenUnavailable):
            await token.random(16)
        shim.reset()
        await until_well(token.check)
        assert await token.decrypt(key, XAES, sealed, AAD) == b"text"


@pytest.mark.parametrize("rv", [Ckr.KEY_HANDLE_INVALID, Ckr.OPERATION_ACTIVE, Ckr.DEVICE_MEMORY])
async def test_encryption_fails_on_a_well_token(shim_place: TokenPlace, shim: Shim, rv: Ckr) -> None:
    """The call fails, no other does, and the object is not taken for gone when it works again."""
    sentinel, key = await made(shim_place, 2)
    async with shim_place.open(sentinel=sentinel) as token:
        await token.encrypt(key, XAES, b"text", AAD)
        shim.fail(Function.ENCRYPT_INIT, rv)
        with pytest.raises(TokenError):
            await token.encrypt(key, XAES, b"text", AAD)
        assert len(await token.random(8)) == 8
        shim.reset()
        await token.encrypt(key, XAES, b"text", AAD)
        assert token.counters.reconnects == 0
