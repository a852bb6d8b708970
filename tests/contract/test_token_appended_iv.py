"""Tokens that make the GCM nonce themselves and append it to the ciphertext, as Thales Luna does in FIPS mode."""

from __future__ import annotations

import ctypes
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
from pkcs11 import Attribute, KeyType

from kmsd.adapters.pkcs11 import Pkcs11Token
from kmsd.adapters.pkcs11.cryptoki_types import CkFunctionList
from kmsd.adapters.pkcs11.gcm_scratch import ASKED_12, ASKED_16, GIVEN_12, GIVEN_16, IvRequest, Scratch
from kmsd.adapters.pkcs11.return_codes import Ckr
from kmsd.adapters.pkcs11.templates import session_key
from kmsd.domain.material import Algorithm
from kmsd.ports import MechanismMissing, NotAuthentic, TokenError
from tests.support.polling import until_async
from tests.support.shim import Function, Shim
from tests.support.software_cryptography import ROLES, software_open, software_seal
from tests.support.tokens import TokenPlace

XAES, AES, IV16 = Algorithm.XAES_256_GCM, Algorithm.AES_256_GCM, Algorithm.AES_256_GCM_IV16
AAD = b"header and context"


@dataclass(frozen=True)
class Device:
    """A way to append, and what must come of it."""

    appends: int | None
    """Bytes of the nonce; None: by ulIvBits."""
    refuses_given: bool
    seals: dict[Algorithm, IvRequest]


DEVICES = {
    "16 bytes, the caller's ignored": Device(16, False, {IV16: GIVEN_16}),
    "16 bytes, the caller's refused": Device(16, True, {IV16: ASKED_16}),
    "12 bytes, the caller's ignored": Device(12, False, {XAES: GIVEN_12, AES: GIVEN_12}),
    "12 bytes, the caller's refused": Device(12, True, {XAES: ASKED_12, AES: ASKED_12}),
    "as ulIvBits asks": Device(None, True, {XAES: ASKED_12, AES: ASKED_12, IV16: ASKED_16}),
}


@pytest.fixture(name="device", params=DEVICES)
def _device(request: pytest.FixtureRequest, shim: Shim) -> Device:
    device = DEVICES[request.param]
    shim.append_iv(device.appends, refuses_given=device.refuses_given)
    return device


@pytest.fixture(name="token")
async def _token(device: Device, shim_place: TokenPlace) -> AsyncIterator[Pkcs11Token]:
    async with shim_place.open() as opened:
        yield opened


def known(token: Pkcs11Token, algorithm: Algorithm, value: bytes) -> bytes:
    """The id of a session object whose value the test knows."""
    connection = token._link.require().connection
    object_id = secrets.token_bytes(16)
    template = session_key(KeyType.AES, 32, ROLES[algorithm])
    del template[Attribute.VALUE_LEN]
    connection.raw.create(connection.keeper.handle, {**template, Attribute.VALUE: value, Attribute.ID: object_id})
    return object_id


async def sealed_by(token: Pkcs11Token, algorithm: Algorithm) -> bytes:
    """A fresh key has encrypted `text`; the token decrypts it."""
    key = secrets.token_bytes(16)
    await token.generate_key(key, algorithm)
    sealed = await token.encrypt(key, algorithm, b"text", AAD)
    assert await token.decrypt(key, algorithm, sealed, AAD) == b"text"
    return sealed


async def test_what_the_token_does_decides(token: Pkcs11Token, device: Device) -> None:
    """It encrypts by the algorithms whose nonce it makes, asked in the first way that works, and decrypts by all."""
    assert token.capabilities.algorithms == frozenset(device.seals)
    assert token.capabilities.opens == frozenset(Algorithm)
    assert token.capabilities.lacking == ()
    assert token._link.require().sealing.requests == device.seals
    for algorithm in set(Algorithm) - set(device.seals):
        with pytest.raises(MechanismMissing, match=f"encryption by {algorithm.name}"):
            await token.generate_key(secrets.token_bytes(16), algorithm)
        with pytest.raises(MechanismMissing, match=f"encryption by {algorithm.name}"):
            await token.encrypt(secrets.token_bytes(16), algorithm, b"text", AAD)


@pytest.mark.parametrize("size", [0, 1, 4, 4096, 20_000])
async def test_what_was_sealed_opens(token: Pkcs11Token, device: Device, size: int) -> None:
    """The sealed text is nonce, ciphertext and tag, at every size; software opens it too, and no nonce comes twice."""
    for algorithm in device.seals:
        value, plaintext = secrets.token_bytes(32), secrets.token_bytes(size)
        key = known(token, algorithm, value)
        texts = [await token.encrypt(key, algorithm, plaintext, AAD) for _ in range(100)]
        assert {len(text) for text in texts} == {algorithm.nonce_length + size + 16}
        assert len({text[: algorithm.nonce_length] for text in texts}) == 100
        for text in texts[:5]:
            assert software_open(value, algorithm, text, AAD) == plaintext
            assert await token.decrypt(key, algorithm, text, AAD) == plaintext


@pytest.mark.parametrize("algorithm", list(Algorithm), ids=lambda a: a.name)
async def test_blobs_of_every_algorithm_open(token: Pkcs11Token, algorithm: Algorithm) -> None:
    """Those that the token cannot make too; a changed part is refused."""
    value, nonce = secrets.token_bytes(32), secrets.token_bytes(algorithm.nonce_length)
    key = known(token, algorithm, value)
    sealed = software_seal(value, algorithm, nonce, b"plaintext", AAD)
    assert await token.decrypt(key, algorithm, sealed, AAD) == b"plaintext"
    changed = [sealed[:i] + bytes([sealed[i] ^ 0x80]) + sealed[i + 1 :] for i in range(len(sealed))]
    for bad in (*changed, sealed[:-1], sealed[: algorithm.nonce_length], sealed + b"\0", b""):
        with pytest.raises(NotAuthentic):
            await token.decrypt(key, algorithm, bad, AAD)


async def test_it_holds_after_a_reconnection(shim_place: TokenPlace, shim: Shim) -> None:
    """A later login asks for nonces as the first one learned to."""
    shim.append_iv(None, refuses_given=True)
    async with shim_place.open() as token:
        await sealed_by(token, AES)
        shim.gone(Ckr.DEVICE_REMOVED)
        with pytest.raises(TokenError):
            await token.random(1)
        shim.gone(0)
        await until_async(lambda: token._link.login is not None)
        assert token.counters.reconnects == 1
        for algorithm in Algorithm:
            await sealed_by(token, algorithm)


async def test_the_sentinel_is_used_where_it_can_be(shim_place: TokenPlace, shim: Shim) -> None:
    """`check` encrypts with the sentinel by an algorithm of the token, and reads one that only decrypts."""
    keys = {algorithm: secrets.token_bytes(16) for algorithm in Algorithm}
    async with shim_place.open() as token:
        for algorithm, key in keys.items():
            await token.generate_key(key, algorithm)
    shim.append_iv(16)
    for algorithm, encrypts in ((XAES, False), (AES, True), (IV16, True)):
        async with shim_place.open(sentinel=keys[algorithm]) as token:
            before = shim.calls(Function.ENCRYPT)
            await token.check()
            assert (shim.calls(Function.ENCRYPT) > before) is encrypts


async def test_a_token_that_takes_no_known_key(shim_place: TokenPlace, shim: Shim) -> None:
    """The known answers are proven with keys that the token unwraps, as Thales Luna demands."""
    shim.fail(Function.CREATE_OBJECT, Ckr.ATTRIBUTE_VALUE_INVALID, unworked=True)
    for appends, seals in ((0, frozenset(Algorithm)), (16, {IV16})):
        shim.append_iv(appends)
        async with shim_place.open() as token:
            assert (token.capabilities.algorithms, token.capabilities.opens) == (seals, frozenset(Algorithm))
            assert token.capabilities.lacking == ()
            assert {"seal", "open"} <= token.counters.pace.keys()
            await sealed_by(token, IV16)


@pytest.mark.parametrize("algorithm", [XAES, AES, IV16], ids=lambda a: a.name)
async def test_a_nonce_of_another_length_than_at_the_start(
    shim_place: TokenPlace, shim: Shim, algorithm: Algorithm
) -> None:
    """A token that begins to append something unexpected gives no ciphertext, since nothing could open it."""
    key = secrets.token_bytes(16)
    async with shim_place.open() as token:
        await token.generate_key(key, algorithm)
        shim.append_iv(12 if algorithm is IV16 else 16)
        with pytest.raises(TokenError, match="wrote"):
            await token.encrypt(key, algorithm, b"text", AAD)
        shim.reset()
        sealed = await token.encrypt(key, algorithm, b"text", AAD)
        assert await token.decrypt(key, algorithm, sealed, AAD) == b"text"


@pytest.mark.parametrize("length", [12, 16])
async def test_the_stand_in_behaves_as_documented(shim_place: TokenPlace, shim: Shim, length: int) -> None:
    """Size queries and short buffers leave the operation alive and change nothing; there are no parts."""
    async with shim_place.open() as token:
        connection = token._link.require().connection
        session, call = connection.keeper.handle, connection.raw._call
        key = connection.raw.generate(
            session, 0x1080, session_key(KeyType.AES, 32, (Attribute.ENCRYPT, Attribute.DECRYPT))
        )
        shim.append_iv(length)
        at, out, size = Scratch(GIVEN_12), ctypes.create_string_buffer(b"?" * 64, 64), ctypes.c_ulong(0)
        at.gcm.pAAD, at.gcm.ulAADLen = AAD, len(AAD)
        parameter = bytes(at.gcm)
        assert call["C_EncryptInit"](session, at.mechanism_ref, key) == Ckr.OK
        for buffer, room, rv in ((None, 0, Ckr.OK), (out, 4 + 16 + length - 1, Ckr.BUFFER_TOO_SMALL)):
            size.value = room
            assert call["C_Encrypt"](session, b"text", 4, buffer, ctypes.byref(size)) == rv
            assert (size.value, out.raw) == (4 + 16 + length, b"?" * 64)
        assert update_of(shim)(session, b"text", 4, out, ctypes.byref(size)) == Ckr.FUNCTION_NOT_SUPPORTED
        assert call["C_Encrypt"](session, b"text", 4, out, ctypes.byref(size)) == Ckr.OK
        assert (bytes(at.gcm), bytes(at.view[:12])) == (parameter, bytes(12))
        to_open = Scratch(GIVEN_12 if length == 12 else GIVEN_16)
        sealed, iv = out.raw[: 4 + 16], out.raw[4 + 16 : 4 + 16 + length]
        assert connection.raw.gcm_decrypt(session, key, iv, sealed, AAD, to_open) == b"text"


def update_of(shim: Shim) -> ctypes._CFunctionType:
    """C_EncryptUpdate of the shim, which kmsd never calls."""
    functions = ctypes.POINTER(CkFunctionList)()
    assert ctypes.CDLL(str(shim.path)).C_GetFunctionList(ctypes.byref(functions)) == Ckr.OK
    arguments = (ctypes.c_ulong, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_void_p, ctypes.c_void_p)
    return ctypes.CFUNCTYPE(ctypes.c_ulong, *arguments)(functions.contents.C_EncryptUpdate)
