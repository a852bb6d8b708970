"""Wrapped material in a token: made, used, bound to its row, kept for a while, and rewrapped."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from uuid import uuid4

import pytest
from msgspec.structs import replace

from kmsd.adapters.pkcs11 import Pkcs11Token
from kmsd.adapters.pkcs11.return_codes import Ckr
from kmsd.domain.domain_key import DomainKey
from kmsd.domain.key_spec import KeySpec, KeyUsage, MacAlgorithm, SigningAlgorithm
from kmsd.domain.material import Algorithm, WrappedMaterial
from kmsd.ports import MechanismMissing, NoSuchObject, NotAuthentic, TamperedMaterial, TokenError
from tests.support.key_kinds import kinds, verify
from tests.support.shim import Function, Shim
from tests.support.token_domain_keys import make_domain_keys
from tests.support.tokens import TokenPlace
from tests.support.wrapped_keys import NEVER_WRAPPED, XAES, identity, rows_of, use


@pytest.fixture
def domain_keys(softhsm_place: TokenPlace) -> list[DomainKey]:
    """Two domain keys in the token."""
    return rows_of(make_domain_keys(softhsm_place, 2))


@pytest.fixture
async def wrapping(softhsm_place: TokenPlace, domain_keys: list[DomainKey]) -> AsyncIterator[Pkcs11Token]:
    """The token, open."""
    assert domain_keys
    async with softhsm_place.open() as token:
        yield token


async def make(token: Pkcs11Token, domain_key: DomainKey) -> WrappedMaterial:
    """Material of a symmetric key."""
    return await token.custody.generate(identity(), domain_key)


@pytest.mark.parametrize("algorithm", Algorithm)
async def test_symmetric_material(wrapping: Pkcs11Token, domain_keys: list[DomainKey], algorithm: Algorithm) -> None:
    """It encrypts and decrypts, and the token keeps no object of it."""
    if algorithm not in wrapping.capabilities.algorithms:
        pytest.skip("the token lacks it")
    before = len(await wrapping.list_objects())
    material = await wrapping.custody.generate(identity(algorithm=algorithm), domain_keys[0])
    sealed = await wrapping.encrypt(material, algorithm, b"text", b"aad")
    assert await wrapping.decrypt(material, algorithm, sealed, b"aad") == b"text"
    assert len(await wrapping.list_objects()) == before
    with pytest.raises(NotAuthentic):
        await wrapping.decrypt(material, algorithm, sealed, b"other")
    wrapping.invalidate(material.material_id)
    with pytest.raises(NoSuchObject):
        await wrapping.encrypt(material.material_id, algorithm, b"text", b"aad")


@pytest.mark.parametrize(("spec", "usage"), list(kinds()))
async def test_other_kinds(wrapping: Pkcs11Token, domain_keys: list[DomainKey], spec: KeySpec, usage: KeyUsage) -> None:
    """Each kind that the token offers is wrapped and used, or refused by name with the reason."""
    offer, unwrappable = (await wrapping.key_offers())[spec, usage], await wrapping.custody.unwrappable(domain_keys[0])
    made = wrapping.custody.generate(identity((spec, usage)), domain_keys[0])
    if not offer.algorithms or (spec, usage) in unwrappable:
        assert not offer.algorithms or spec in NEVER_WRAPPED
        with pytest.raises(MechanismMissing):
            await made
        return
    material = await made
    for algorithm in offer.algorithms:
        await use(wrapping, material, algorithm)


async def test_a_unwrapped_key_shows_what_guards_it(wrapping: Pkcs11Token, domain_keys: list[DomainKey]) -> None:
    """The key in use is sensitive, not extractable, and has one role."""
    shown = await wrapping.attributes(await make(wrapping, domain_keys[0]))
    granted = {name for name in ("ENCRYPT", "DECRYPT", "SIGN", "WRAP", "UNWRAP", "DERIVE") if shown[f"CKA_{name}"]}
    assert granted == {"DERIVE"}
    assert (shown["CKA_SENSITIVE"], shown["CKA_EXTRACTABLE"], shown["CKA_TOKEN"]) == (True, False, False)


# --- binding ----------------------------------------------------------------------------------------


async def test_changed_rows_are_found(wrapping: Pkcs11Token, domain_keys: list[DomainKey]) -> None:
    """Whatever of a row is changed, its key is not used."""
    material = await make(wrapping, domain_keys[0])
    other = await wrapping.custody.generate(identity(), domain_keys[0])
    pair = await wrapping.custody.generate(identity((KeySpec.ECC_NIST_P256, KeyUsage.SIGN_VERIFY)), domain_keys[0])
    changed = [
        replace(material, content=other.content),
        replace(material, content=other.content, mac=other.mac),
        replace(material, identity=other.identity),
        replace(material, identity=replace(material.identity, key_id=str(uuid4()))),
        replace(material, identity=replace(material.identity, is_imported=True)),
        replace(material, identity=replace(material.identity, algorithm=Algorithm.AES_256_GCM)),
        replace(material, content=material.content[:-1]),
        replace(material, content=b""),
        replace(material, content=bytes((material.content[0] ^ 1,)) + material.content[1:]),
        replace(material, mac=bytes(16)),
        replace(material, mac=material.mac[:15]),
        replace(material, mechanism=material.mechanism + 1),
        replace(material, public_key=pair.public_key),
    ]
    for row in changed:
        with pytest.raises(TamperedMaterial):
            await wrapping.encrypt(row, XAES, b"text", b"other associated data")
        with pytest.raises(TamperedMaterial):
            await wrapping.custody.require_bound(row)
    with pytest.raises(TamperedMaterial):
        await wrapping.custody.require_bound(replace(pair, public_key=b""))
    await wrapping.custody.require_bound(pair)


async def test_a_material_cannot_be_the_binding_key(wrapping: Pkcs11Token, domain_keys: list[DomainKey]) -> None:
    """Imported material has a known value. In the place of the binding key it would let anybody bind."""
    material = await make(wrapping, domain_keys[0])
    with pytest.raises(Exception, match="binding key"):
        await wrapping.encrypt(replace(material, binding_key=material.content), XAES, b"text", b"aad")


async def test_the_domain_key_is_needed(wrapping: Pkcs11Token, domain_keys: list[DomainKey]) -> None:
    """Without it nothing opens, and the error is that of a missing key."""
    material = await make(wrapping, domain_keys[0])
    sealed = await wrapping.encrypt(material, XAES, b"text", b"aad")
    await wrapping.destroy(domain_keys[0].domain_key_id)
    wrapping.invalidate(material.material_id)
    with pytest.raises(NoSuchObject):
        await wrapping.decrypt(material, XAES, sealed, b"aad")
    with pytest.raises(NoSuchObject):
        await wrapping.custody.generate(identity(), domain_keys[0])


# --- held keys --------------------------------------------------------------------------------------


async def test_one_unwrap_serves_all_that_wait(softhsm_place: TokenPlace, domain_keys: list[DomainKey]) -> None:
    """Forty calls for a key that is not held unwrap it once."""
    async with softhsm_place.open() as token:
        material = await wrapping_of(token, domain_keys[0], KeySpec.HMAC_256)
    async with softhsm_place.open(inline="never") as token:
        macs = await asyncio.gather(
            *(token.mac(material, MacAlgorithm.HMAC_SHA_256, b"message") for _ in range(40)),
        )
        assert len(set(macs)) == 1
        assert token.counters.held_keys == 1


async def wrapping_of(token: Pkcs11Token, domain_key: DomainKey, spec: KeySpec) -> WrappedMaterial:
    """Material of an HMAC key."""
    return await token.custody.generate(identity((spec, KeyUsage.GENERATE_VERIFY_MAC)), domain_key)


async def test_held_keys_are_bounded(softhsm_place: TokenPlace, domain_keys: list[DomainKey]) -> None:
    """The least recently used give way, and are unwrapped again when they are needed."""
    async with softhsm_place.open(held_keys=4) as token:
        materials = [await wrapping_of(token, domain_keys[0], KeySpec.HMAC_256) for _ in range(12)]
        first = [await token.mac(one, MacAlgorithm.HMAC_SHA_256, b"m") for one in materials]
        assert [await token.mac(one, MacAlgorithm.HMAC_SHA_256, b"m") for one in materials] == first
        assert token.counters.held_keys <= 4
        assert token.counters.evictions >= 8


async def test_held_keys_end(softhsm_place: TokenPlace, domain_keys: list[DomainKey]) -> None:
    """A key ends when its material is destroyed, and with the login."""
    async with softhsm_place.open() as token:
        material = await wrapping_of(token, domain_keys[0], KeySpec.HMAC_256)
        assert token.counters.held_keys == 1
        token.invalidate(material.material_id)
        assert token.counters.held_keys == 0
        mac = await token.mac(material, MacAlgorithm.HMAC_SHA_256, b"m")
    async with softhsm_place.open() as token:
        assert token.counters.held_keys == 0
        assert await token.mac(material, MacAlgorithm.HMAC_SHA_256, b"m") == mac


@pytest.mark.parametrize("code", [Ckr.DEVICE_MEMORY, Ckr.HOST_MEMORY])
async def test_a_token_without_memory(shim: Shim, shim_place: TokenPlace, code: Ckr) -> None:
    """Half of the held keys give way, and the call goes on; if that does not help, it fails, and later ones work."""
    domain_key = rows_of(make_domain_keys(shim_place, 1))[0]
    async with shim_place.open(inline="never") as token:
        materials = [await wrapping_of(token, domain_key, KeySpec.HMAC_256) for _ in range(8)]
        token.invalidate(materials[0].material_id)
        shim.fail(Function.UNWRAP_KEY, code, times=1)
        assert len(await token.mac(materials[0], MacAlgorithm.HMAC_SHA_256, b"m")) == 32
        assert (token.counters.held_keys, token.counters.evictions) == (4, 4)
        token.invalidate(materials[1].material_id)
        shim.fail(Function.UNWRAP_KEY, code, times=2)
        with pytest.raises(TokenError):
            await token.mac(materials[1], MacAlgorithm.HMAC_SHA_256, b"m")
        for material in materials:
            assert len(await token.mac(material, MacAlgorithm.HMAC_SHA_256, b"m")) == 32


@pytest.mark.parametrize("rv", [Ckr.GENERAL_ERROR, Ckr.TEMPLATE_INCONSISTENT])
@pytest.mark.parametrize("unworked", [True, False])
async def test_a_refusal_of_once_takes_no_protection_away(
    shim_place: TokenPlace, shim: Shim, rv: int, *, unworked: bool
) -> None:
    """A key that the token refused to unwrap once is not used without the attributes that it takes."""
    domain_key = rows_of(make_domain_keys(shim_place, 1))[0]
    async with shim_place.open(inline="never") as token:
        material = await make(token, domain_key)
        token.invalidate(material.material_id)
        shim.fail(Function.UNWRAP_KEY, rv, times=1, unworked=unworked)
        with pytest.raises(TokenError):
            await token.encrypt(material, XAES, b"text", b"aad")
        shim.reset()
        shown = await token.attributes(material)
        assert shown["CKA_COPYABLE"] is False
        await make(token, domain_key)


async def test_the_event_loop_makes_a_failed_call_again_on_a_thread(shim_place: TokenPlace, shim: Shim) -> None:
    """Generation and the first use of a key too: a token that fails once is not noticed."""
    domain_key = rows_of(make_domain_keys(shim_place, 1))[0]
    async with shim_place.open(inline="always") as token:
        material = await make(token, domain_key)
        sealed = await token.encrypt(material, XAES, b"text", b"aad")
        for function in (Function.UNWRAP_KEY, Function.DERIVE_KEY):
            token.invalidate(material.material_id)
            shim.fail(function, Ckr.GENERAL_ERROR, times=1)
            assert await token.decrypt(material, XAES, sealed, b"aad") == b"text"
            shim.reset()
        shim.fail(Function.GENERATE_KEY, Ckr.GENERAL_ERROR, times=1)
        again = await make(token, domain_key)
        shim.reset()
        assert len(await token.encrypt(again, XAES, b"text", b"aad")) > len(b"text")


# --- rewrapping -------------------------------------------------------------------------------------


async def test_rewrapped_material_is_the_same(wrapping: Pkcs11Token, domain_keys: list[DomainKey]) -> None:
    """Under another domain key it opens what it sealed, and the old domain key is not needed any more."""
    old, new = domain_keys
    symmetric = await make(wrapping, old)
    pair = await wrapping.custody.generate(identity((KeySpec.RSA_2048, KeyUsage.SIGN_VERIFY)), old)
    mac = await wrapping_of(wrapping, old, KeySpec.HMAC_224)
    sealed = await wrapping.encrypt(symmetric, XAES, b"text", b"aad")
    expected = await wrapping.mac(mac, MacAlgorithm.HMAC_SHA_224, b"m")
    tampered = replace(symmetric, mac=bytes(16))
    again, pair_again, mac_again, refused = await wrapping.custody.rewrap([symmetric, pair, mac, tampered], new)
    assert isinstance(again, WrappedMaterial)
    assert isinstance(pair_again, WrappedMaterial)
    assert isinstance(mac_again, WrappedMaterial)
    assert isinstance(refused, TamperedMaterial)
    await wrapping.destroy(old.domain_key_id)
    assert again.domain_key_id == new.domain_key_id
    assert await wrapping.decrypt(again, XAES, sealed, b"aad") == b"text"
    assert await wrapping.mac(mac_again, MacAlgorithm.HMAC_SHA_224, b"m") == expected
    signature = await wrapping.sign(pair_again, SigningAlgorithm.RSASSA_PSS_SHA_256, b"message", is_digest=False)
    verify(pair.public_key, SigningAlgorithm.RSASSA_PSS_SHA_256, b"message", signature, digest=False)
