"""Imports at the port: what comes in is proven in the token, what does not fit leaves nothing behind."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes, keywrap
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.cmac import CMAC

from kmsd.adapters.pkcs11 import Pkcs11Token
from kmsd.domain.key_import import WrappingAlgorithm
from kmsd.domain.material import Algorithm
from kmsd.ports import (
    InvalidLength,
    MaterialMismatch,
    MechanismMissing,
    NoSuchObject,
    TokenError,
    TokenUnavailable,
    UnwrapFailed,
    Wrapped,
)
from tests.support.key_import import oaep, raw_encrypt, rsa_key, wrap
from tests.support.shim import Function, Shim
from tests.support.tokens import TokenPlace, available, nss, softhsm

MARK = b"a mark that is longer than one block of AES"
IN_SOFTHSM = {"RSAES_PKCS1_V1_5", "RSAES_OAEP_SHA_1", "RSA_AES_KEY_WRAP_SHA_1"}


def new_id() -> bytes:
    """An object id."""
    return os.urandom(16)


def cmac(material: bytes) -> bytes:
    """What the fingerprint must be."""
    mac = CMAC(AES(material))
    mac.update(MARK)
    return mac.finalize()


def wrapped(material: bytes, algorithm: WrappingAlgorithm, wrapping_key: bytes, public: bytes) -> Wrapped:
    """As it comes from a client."""
    return Wrapped(wrap(material, algorithm, public), algorithm, wrapping_key)


@pytest.fixture
async def pair(token: Pkcs11Token) -> tuple[bytes, bytes]:
    """A wrapping key: object id and public half."""
    object_id = new_id()
    return object_id, await token.generate_wrapping_key(object_id, 2048)


async def test_capabilities_are_what_works(token: Pkcs11Token, token_place: TokenPlace) -> None:
    """SoftHSM lists OAEP and refuses it with SHA-256; NSS does it all."""
    capable = await token.import_capabilities()
    if token_place.kind == "softhsm":
        assert set(capable.imports) == IN_SOFTHSM
    if token_place.kind == "nss":
        assert set(capable.imports) == set(WrappingAlgorithm) == set(capable.passes_on)
    assert capable.receives == (WrappingAlgorithm.RSAES_OAEP_SHA_1 in capable.imports)


@pytest.mark.parametrize("algorithm", WrappingAlgorithm)
async def test_material_comes_in(token: Pkcs11Token, pair: tuple[bytes, bytes], algorithm: WrappingAlgorithm) -> None:
    """It is what software says it is, seals and opens, and nothing but the object remains."""
    if algorithm not in (await token.import_capabilities()).imports:
        with pytest.raises(MechanismMissing):
            await token.unwrap_key(wrapped(os.urandom(32), algorithm, *pair), MARK)
        return
    material = os.urandom(32)
    for sealing in token.capabilities.algorithms:
        object_id = new_id()
        arrived = wrapped(material, algorithm, *pair)
        assert await token.unwrap_key(arrived, MARK, into=(object_id, sealing)) == cmac(material)
        sealed = await token.encrypt(object_id, sealing, b"x", b"aad")
        assert await token.decrypt(object_id, sealing, sealed, b"aad") == b"x"
    reports = {(report.object_id, report.kind): report for report in await token.list_objects()}
    assert all(report.problem == "" for report in reports.values())
    assert {kind for (object_id, kind), report in reports.items() if report.imported} == {"secret"}
    assert len(reports) == len(token.capabilities.algorithms) + 2


async def test_objects_show_their_roles(token: Pkcs11Token, pair: tuple[bytes, bytes]) -> None:
    """The wrapping key unwraps and does nothing else; imported material has one role, and cannot be had out."""
    shown = await token.attributes(pair[0])
    assert (shown["CKA_SENSITIVE"], shown["CKA_EXTRACTABLE"], shown["CKA_MODIFIABLE"]) == (True, False, False)
    assert [role for role in ("DECRYPT", "SIGN", "UNWRAP", "DERIVE") if shown.get(f"CKA_{role}")] == ["UNWRAP"]
    object_id = new_id()
    algorithm = WrappingAlgorithm.RSAES_OAEP_SHA_1
    await token.unwrap_key(wrapped(os.urandom(32), algorithm, *pair), MARK, into=(object_id, Algorithm.XAES_256_GCM))
    shown = await token.attributes(object_id)
    assert (shown["CKA_SENSITIVE"], shown["CKA_EXTRACTABLE"], shown["CKA_MODIFIABLE"]) == (True, False, False)
    roles = ("ENCRYPT", "DECRYPT", "SIGN", "VERIFY", "WRAP", "UNWRAP", "DERIVE")
    assert [role for role in roles if shown.get(f"CKA_{role}")] == ["DERIVE"]


@pytest.mark.parametrize("bits", [3072, 4096])
async def test_longer_wrapping_keys(token: Pkcs11Token, bits: int) -> None:
    """As many bits as were asked for."""
    object_id = new_id()
    public = await token.generate_wrapping_key(object_id, bits)
    assert rsa_key(public).key_size == bits
    material = os.urandom(32)
    arrived = wrapped(material, WrappingAlgorithm.RSAES_OAEP_SHA_1, object_id, public)
    assert await token.unwrap_key(arrived, MARK) == cmac(material)


@pytest.mark.parametrize("algorithm", WrappingAlgorithm)
async def test_other_lengths_are_noticed(
    token: Pkcs11Token, pair: tuple[bytes, bytes], algorithm: WrappingAlgorithm
) -> None:
    """Attributes say nothing of it in SoftHSM, which takes any length for an AES key."""
    if algorithm not in (await token.import_capabilities()).imports:
        pytest.skip("the token lacks it")
    before = await token.list_objects()
    for length in (1, 8, 15, 16, 17, 23, 24, 25, 28, 31, 33, 40, 48, 64, 128):
        object_id = new_id()
        arrived = wrapped(os.urandom(length), algorithm, *pair)
        with pytest.raises((InvalidLength, UnwrapFailed)):
            await token.unwrap_key(arrived, MARK, into=(object_id, Algorithm.XAES_256_GCM))
        with pytest.raises(NoSuchObject):
            await token.attributes(object_id)
    assert await token.list_objects() == before


async def test_other_material_makes_no_object(token: Pkcs11Token, pair: tuple[bytes, bytes]) -> None:
    """Sameness is decided before anything lasting is made."""
    material, object_id = os.urandom(32), new_id()
    algorithm, into = WrappingAlgorithm.RSAES_OAEP_SHA_1, (object_id, Algorithm.XAES_256_GCM)
    changed = material[:-1] + bytes([material[-1] ^ 1])
    with pytest.raises(MaterialMismatch):
        await token.unwrap_key(wrapped(changed, algorithm, *pair), MARK, expected=cmac(material), into=into)
    with pytest.raises(NoSuchObject):
        await token.attributes(object_id)
    assert await token.unwrap_key(wrapped(material, algorithm, *pair), MARK, expected=cmac(material), into=into)
    with pytest.raises(TokenError):
        await token.unwrap_key(wrapped(material, algorithm, *pair), MARK, into=into)


@pytest.mark.parametrize("algorithm", WrappingAlgorithm)
async def test_bad_blobs_are_refused(
    token: Pkcs11Token, pair: tuple[bytes, bytes], algorithm: WrappingAlgorithm
) -> None:
    """Of every kind and length; the token and its sessions are well afterwards."""
    if algorithm not in (await token.import_capabilities()).imports:
        pytest.skip("the token lacks it")
    good = wrap(b"k" * 32, algorithm, pair[1])
    changed = [good[:i] + bytes([good[i] ^ 1]) + good[i + 1 :] for i in (0, 1, 128, len(good) - 1)]
    blobs = [b"\0", b"x", good[:-1], good + b"\0", good[:200], os.urandom(6144), b"\xff" * len(good)]
    blobs += [raw_encrypt(b"\0\2" + b"\1" * 8 + b"\0" + b"k" * 245, pair[1])]
    if algorithm.has_integrity:
        # Of what has no integrity a module may make a random key of random length (implicit rejection, as NSS does).
        blobs += [bytes(len(good)), *changed]
    if algorithm.value.startswith("RSA_AES"):
        blobs += [good[:256], good[:264], good[:257], good[:-8], good[:256] + os.urandom(40)]
    for blob in blobs:
        with pytest.raises((UnwrapFailed, InvalidLength)):
            await token.unwrap_key(Wrapped(blob, algorithm, pair[0]), MARK)
    await token.check()
    assert await token.unwrap_key(Wrapped(good, algorithm, pair[0]), MARK) == cmac(b"k" * 32)


@pytest.mark.parametrize("algorithm", ["RSA_AES_KEY_WRAP_SHA_1", "RSA_AES_KEY_WRAP_SHA_256"])
async def test_hybrid_wrapping_by_what_is_no_aes_key(
    token: Pkcs11Token, pair: tuple[bytes, bytes], algorithm: str
) -> None:
    """The inner key may have any size of AES; of others the blob is refused, and not the algorithm."""
    chosen = WrappingAlgorithm(algorithm)
    if chosen not in (await token.import_capabilities()).imports:
        pytest.skip("the token lacks it")
    way = oaep(hashes.SHA256() if algorithm.endswith("256") else hashes.SHA1())  # noqa: S303 (the API's)
    for size in (0, 1, 15, 17, 31, 33, 64):
        blob = rsa_key(pair[1]).encrypt(os.urandom(size), way) + os.urandom(40)
        with pytest.raises(UnwrapFailed):
            await token.unwrap_key(Wrapped(blob, chosen, pair[0]), MARK)
    for size in (16, 24, 32):
        kek = os.urandom(size)
        blob = rsa_key(pair[1]).encrypt(kek, way) + keywrap.aes_key_wrap_with_padding(kek, b"k" * 32)
        assert await token.unwrap_key(Wrapped(blob, chosen, pair[0]), MARK) == cmac(b"k" * 32)


async def test_passing_on_what_is_too_long(token: Pkcs11Token) -> None:
    """More than the transport key can carry, or than the token can hold: refused, and no fault."""
    wrapping_key, recipient = new_id(), new_id()
    public = await token.generate_wrapping_key(wrapping_key, 4096)
    transport = await token.generate_wrapping_key(recipient, 2048)
    for length in (215, 400):
        arrived = wrapped(os.urandom(length), WrappingAlgorithm.RSAES_OAEP_SHA_1, wrapping_key, public)
        assert isinstance((await token.rewrap_for(arrived, transport)).failure, InvalidLength | UnwrapFailed)


async def test_a_missing_wrapping_key_is_no_bad_blob(token: Pkcs11Token, pair: tuple[bytes, bytes]) -> None:
    """Else it would count as a failed import."""
    arrived = wrapped(os.urandom(32), WrappingAlgorithm.RSAES_OAEP_SHA_1, new_id(), pair[1])
    with pytest.raises(NoSuchObject):
        await token.unwrap_key(arrived, MARK)


async def test_imports_do_not_disturb_each_other(token: Pkcs11Token, pair: tuple[bytes, bytes]) -> None:
    """Nor keys that are made and used meanwhile: SoftHSM makes broken objects when two threads make some at once."""
    algorithm, sealing = WrappingAlgorithm.RSAES_OAEP_SHA_1, Algorithm.XAES_256_GCM
    materials = [os.urandom(32) for _ in range(12)]

    async def bring(material: bytes) -> bytes:
        return await token.unwrap_key(wrapped(material, algorithm, *pair), MARK, into=(new_id(), sealing))

    async def make() -> None:
        object_id = new_id()
        await token.generate_key(object_id, sealing)
        await token.encrypt(object_id, sealing, b"x", b"aad")

    async with asyncio.timeout(240):
        results = await asyncio.gather(
            *(bring(material) for material in materials),
            *(make() for _ in range(12)),
            *(token.generate_wrapping_key(new_id(), 2048) for _ in range(3)),
        )
    assert results[:12] == [cmac(material) for material in materials]
    assert [report for report in await token.list_objects() if report.problem] == []


# --- tokens that are worse --------------------------------------------------------------------------


async def test_a_token_that_takes_no_known_keys(shim: Shim, shim_place: TokenPlace) -> None:
    """As many HSMs do: then what imports need is proven with a key pair of the token's own."""
    template_inconsistent = 0xD1
    shim.fail(Function.CREATE_OBJECT, template_inconsistent)
    async with shim_place.open() as token:
        assert set((await token.import_capabilities()).imports) == IN_SOFTHSM
        assert (await token.import_capabilities()).receives


async def test_trouble_is_not_taken_for_a_lack_for_ever(shim: Shim, shim_place: TokenPlace) -> None:
    """What fails when the first import asks is tried anew by the first who asks a minute later, and then is known."""
    function_failed, now = 6, [0.0]
    token = await Pkcs11Token.open(shim_place.settings(), clock=lambda: now[0])
    try:
        shim.fail(Function.UNWRAP_KEY, function_failed)
        assert (await token.import_capabilities()).imports == frozenset()
        shim.reset()
        now[0] = 59.0
        assert (await token.import_capabilities()).imports == frozenset()
        now[0] = 61.0
        assert set((await token.import_capabilities()).imports) == IN_SOFTHSM
        shim.fail(Function.UNWRAP_KEY, function_failed)
        now[0] = 200.0
        assert set((await token.import_capabilities()).imports) == IN_SOFTHSM
    finally:
        shim.reset()
        await token.close()


async def test_an_object_that_can_be_had_out_is_not_kept(shim: Shim, shim_place: TokenPlace) -> None:
    """What is read back decides: there are tokens that ignore CKA_EXTRACTABLE in C_UnwrapKey (opencryptoki)."""
    async with shim_place.open() as token:
        wrapping_key, object_id = new_id(), new_id()
        public = await token.generate_wrapping_key(wrapping_key, 2048)
        arrived = wrapped(os.urandom(32), WrappingAlgorithm.RSAES_OAEP_SHA_1, wrapping_key, public)
        shim.lie()
        with pytest.raises(TokenError, match="CKA_EXTRACTABLE is not False"):
            await token.unwrap_key(arrived, MARK, into=(object_id, Algorithm.XAES_256_GCM))
        with pytest.raises(TokenError, match="CKA_EXTRACTABLE is not False"):
            await token.generate_wrapping_key(new_id(), 2048)
        shim.reset()
        assert {report.object_id for report in await token.list_objects()} == {wrapping_key}


async def test_a_token_without_cmac_takes_no_imports(tmp_path: Path) -> None:
    """Length and sameness could not be proven: so nothing is taken in, and each call says what is missing."""
    with softhsm(tmp_path, without=("CKM_AES_CMAC",)) as place:
        async with place.open() as token:
            skills = await token.import_capabilities()
            assert (skills.imports, skills.receives) == (frozenset(), False)
            with pytest.raises(MechanismMissing):
                await token.transport_key()


# --- two tokens -------------------------------------------------------------------------------------


@pytest.fixture
async def both(tmp_path: Path) -> AsyncIterator[tuple[Pkcs11Token, Pkcs11Token]]:
    """A main and an import token, in one process."""
    if not {"softhsm", "nss"} <= set(available()):
        pytest.skip("SoftHSM2 and NSS are needed")
    with softhsm(tmp_path / "main") as main_place, nss(tmp_path / "import") as import_place:
        async with main_place.open() as main, import_place.open() as helper:
            yield main, helper


@pytest.mark.parametrize("algorithm", WrappingAlgorithm)
async def test_material_is_passed_on(both: tuple[Pkcs11Token, Pkcs11Token], algorithm: WrappingAlgorithm) -> None:
    """By every algorithm of the API, into a token that lacks two of them."""
    main, helper = both
    wrapping_key, material, object_id = new_id(), os.urandom(32), new_id()
    public = await helper.generate_wrapping_key(wrapping_key, 2048)
    arrived = wrapped(material, algorithm, wrapping_key, public)
    forwarded = await helper.rewrap_for(arrived, await main.transport_key())
    assert forwarded.failure is None
    into = (object_id, Algorithm.XAES_256_GCM)
    assert await main.unwrap_key(forwarded, MARK, into=into) == cmac(material)
    assert [report.imported for report in await main.list_objects()] == [True]
    for length in (16, 31, 33, 190):
        try:
            blob = wrap(os.urandom(length), algorithm, public)
        except ValueError:
            blob = wrap(os.urandom(64), algorithm, public)
        troubled = await helper.rewrap_for(Wrapped(blob, algorithm, wrapping_key), await main.transport_key())
        with pytest.raises(InvalidLength):
            await main.unwrap_key(troubled, MARK, into=(new_id(), Algorithm.XAES_256_GCM))
    if not algorithm.has_integrity:
        return
    garbage = await helper.rewrap_for(Wrapped(os.urandom(256), algorithm, wrapping_key), await main.transport_key())
    with pytest.raises((UnwrapFailed, InvalidLength)):
        await main.unwrap_key(garbage, MARK, into=(new_id(), Algorithm.XAES_256_GCM))
    assert len(await main.list_objects()) == 1
    assert len(await helper.list_objects()) == 2


async def test_the_transport_key_ends_with_the_login(both: tuple[Pkcs11Token, Pkcs11Token]) -> None:
    """Material for another login is refused as such, and counts as no failed import."""
    main, helper = both
    wrapping_key = new_id()
    public = await helper.generate_wrapping_key(wrapping_key, 2048)
    arrived = wrapped(os.urandom(32), WrappingAlgorithm.RSAES_OAEP_SHA_256, wrapping_key, public)
    stranger = new_id()
    forwarded = await helper.rewrap_for(arrived, await helper.generate_wrapping_key(stranger, 2048))
    with pytest.raises(TokenUnavailable):
        await main.unwrap_key(forwarded, MARK)
