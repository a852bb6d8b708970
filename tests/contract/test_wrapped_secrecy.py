"""No call into the module returns key material that is wrapped, a domain key or a binding key, in any use of them."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.keywrap import aes_key_wrap
from cryptography.hazmat.primitives.serialization import load_der_public_key
from pkcs11 import Attribute, KeyType, Mechanism

from kmsd.adapters.pkcs11 import Pkcs11Token
from kmsd.adapters.pkcs11.ceremony import NewDomainKey
from kmsd.adapters.pkcs11.domain_key_transfer import receiver, send_domain_keys
from kmsd.adapters.pkcs11.templates import session_key
from kmsd.domain.domain_key import DomainKey
from kmsd.domain.key_import import WrappingAlgorithm
from kmsd.domain.key_spec import ALGORITHMS, KeySpec
from kmsd.domain.material import Algorithm, WrappedMaterial
from kmsd.ports import Wrapped
from tests.support import call_recorder as recorder
from tests.support.call_recorder import Recorder
from tests.support.imported_kinds import importable_kinds, material_of
from tests.support.key_import import wrap
from tests.support.key_kinds import Kind, kinds, new_id
from tests.support.private_values import (
    Reveals,
    reveals_binding_key,
    reveals_domain_key,
    reveals_mac_key,
    reveals_rsa,
    reveals_scalar,
    reveals_sealing_key,
)
from tests.support.shim import compiler
from tests.support.software_cryptography import message_key, software_seal
from tests.support.software_transfer import mac
from tests.support.token_domain_keys import as_user, make_domain_keys
from tests.support.tokens import TokenPlace, another_softhsm
from tests.support.wrapped_keys import AAD, SYMMETRIC, TEXT, XAES, identity, rows_of, use

MARK = b"a mark that is longer than one block of AES"
ALIKE = (KeySpec.ECC_NIST_P384, KeySpec.ECC_NIST_P521, KeySpec.RSA_3072, KeySpec.RSA_4096)
"""Specs whose keys are made, wrapped and used by the same code as those of another length."""
READ = {recorder.DERIVE_KEY}
"""The functions that made the keys whose value is read: secrets of key agreements, and what CKM_AES_ECB_ENCRYPT_DATA
makes of a block of zeros."""
HYBRID = WrappingAlgorithm.RSA_AES_KEY_WRAP_SHA_1


def test_the_search_finds_what_is_there() -> None:
    """A buffer with the value among other bytes is recognised, one without it is not."""
    key, binding_key = os.urandom(32), os.urandom(24)
    for algorithm in Algorithm:
        nonce = os.urandom(algorithm.nonce_length)
        search = reveals_sealing_key(algorithm, software_seal(key, algorithm, nonce, TEXT, AAD), AAD)
        assert search(b"abc" + key + b"d")
        assert search(message_key(key, nonce[:12])) is (algorithm is XAES)
        assert not search(os.urandom(64))
    assert reveals_domain_key(aes_key_wrap(key, binding_key))(b"a" + key)
    assert not reveals_domain_key(aes_key_wrap(key, binding_key))(os.urandom(64))
    unbound = WrappedMaterial(identity(), new_id(), b"", 0, b"", b"")
    material = WrappedMaterial(
        unbound.identity, unbound.domain_key_id, b"", 0, b"", mac(binding_key, unbound.bound_text())
    )
    assert reveals_binding_key(material)(b"abc" + binding_key)
    assert not reveals_binding_key(material)(os.urandom(64))


@pytest.fixture(name="recorded")
def _recorded(softhsm_place: TokenPlace, tmp_path: Path) -> tuple[TokenPlace, Recorder]:
    """A token whose module writes down every buffer that it returns."""
    if compiler() is None:
        pytest.skip("the recorder needs a C compiler")
    found = Recorder(tmp_path, softhsm_place.module)
    return replace(softhsm_place, module=found.path), found


class Scene:
    """A token with two domain keys, and what its module has returned of late."""

    def __init__(self, token: Pkcs11Token, domain_keys: list[DomainKey], found: Recorder) -> None:
        self.token, self.found = token, found
        self.old, self.new = domain_keys
        self._seen = 0

    def news(self) -> set[bytes]:
        """The buffers that were returned since the last call of this."""
        returned = list(self.found.returned())
        fresh, self._seen = returned[self._seen :], len(returned)
        return {data for _, data in fresh}

    async def lead(self, material: WrappedMaterial) -> Reveals:
        """Have the token do all with a material, under one domain key and then the other. Return the search for it."""
        token, algorithm = self.token, ALGORITHMS[material.identity.spec][material.identity.usage][0]
        used = b""
        (moved,) = await token.custody.rewrap([material], self.new)
        assert isinstance(moved, WrappedMaterial)
        for one in (material, moved):
            await token.custody.require_bound(one)
            for _ in ("unwrapped", "kept"):
                used = await use(token, one, algorithm)
            await token.attributes(one)
            token.invalidate(one.material_id)
        return search_for(material, used)


def search_for(material: WrappedMaterial, used: bytes) -> Reveals:
    """The search for a material, by its public key or a result of its use."""
    spec, sealing = material.identity.spec, material.identity.algorithm
    if sealing is not None:
        return reveals_sealing_key(sealing, used, AAD)
    if not spec.is_asymmetric:
        return reveals_mac_key(spec, used, TEXT)
    key = load_der_public_key(material.public_key)
    if isinstance(key, rsa.RSAPublicKey):
        return reveals_rsa(key)
    assert isinstance(key, ec.EllipticCurvePublicKey)
    return reveals_scalar(key)


@pytest.fixture(name="scene")
async def _scene(recorded: tuple[TokenPlace, Recorder]) -> AsyncIterator[Scene]:
    place, found = recorded
    domain_keys = rows_of(make_domain_keys(place, 2))
    async with place.open() as token:
        await token.custody.unwrappable(domain_keys[0])
        yield Scene(token, domain_keys, found)


def of_each_kind() -> Iterator[tuple[Kind, Algorithm]]:
    """Every kind but those that are alike; a symmetric one with each algorithm."""
    yield from ((SYMMETRIC, algorithm) for algorithm in Algorithm)
    yield from ((kind, XAES) for kind in kinds() if kind[0] not in ALIKE)


async def test_generated_material(scene: Scene) -> None:
    """Through generation, wrapping, use, rewrapping and the reading of attributes, of each kind."""
    token, searched = scene.token, 0
    unwrappable = await token.custody.unwrappable(scene.old)
    for kind, algorithm in of_each_kind():
        offered = kind == SYMMETRIC or (await token.key_offers())[kind].algorithms
        if not offered or kind in unwrappable or algorithm not in token.capabilities.algorithms:
            continue
        scene.news()
        material = await token.custody.generate(identity(kind, algorithm=algorithm), scene.old)
        reveals = await scene.lead(material)
        buffers = scene.news()
        assert len(buffers) > 5
        assert [data for data in buffers if reveals(data)] == [], f"{kind} {algorithm}"
        assert [data for data in buffers if reveals_binding_key(material)(data)] == []
        searched += 1
    assert searched >= 10
    # What the recorder must have seen, or it sees nothing.
    assert {recorder.WRAP_KEY, recorder.UNWRAP_KEY, recorder.SIGN} <= {one for one, _ in scene.found.returned()}
    assert scene.found.origins_of_values() <= READ


async def test_imported_material(scene: Scene) -> None:
    """Through unwrapping, proof, refusal, wrapping, use and rewrapping, of each kind."""
    wrapping_key = new_id()
    public = await scene.token.generate_wrapping_key(wrapping_key, 2048)
    for kind in (SYMMETRIC, *(kind for kind in importable_kinds() if kind[0] not in ALIKE)):
        value = os.urandom(32) if kind == SYMMETRIC else material_of(kind[0])
        blob = Wrapped(wrap(value, HYBRID, public), HYBRID, wrapping_key)
        scene.news()
        material = await imported(scene, kind, blob)
        reveals = await scene.lead(material)
        buffers = scene.news()
        parts = {value[at : at + 16] for at in range(len(value) - 15)} if len(value) <= 64 else set()
        assert [data for data in buffers if any(part in data for part in parts)] == []
        assert [data for data in buffers if reveals(data)] == [], kind
    assert scene.found.origins_of_values() <= READ


async def imported(scene: Scene, kind: Kind, blob: Wrapped) -> WrappedMaterial:
    """Prove material from outside, and take it in under the old domain key."""
    token, new = scene.token, identity(kind, is_imported=True)
    if kind == SYMMETRIC:
        expected = await token.unwrap_key(blob, MARK)
    else:
        expected = (await token.import_key(blob, kind, MARK)).fingerprint
    return await token.custody.import_material(blob, MARK, expected, identity=new, domain_key=scene.old)


async def test_domain_keys(recorded: tuple[TokenPlace, Recorder]) -> None:
    """Through ceremony, transfer, proof, self-tests and use, in both tokens."""
    place, found = recorded
    there = another_softhsm(place, "there")
    made = list(make_domain_keys(place, 1))
    with receiver(there.settings(), there.so_pin) as receiving:
        transfer = send_domain_keys(place.settings(), place.so_pin, 1, [receiving.public_key])
        receiving.accept(transfer)
    made += [NewDomainKey(one.domain_key_id, one.binding_key) for one in transfer.domain_keys]
    searches: list[Callable[[bytes], bool]] = [reveals_domain_key(one.binding_key) for one in made]
    for here, domain_key in ((place, made[0]), (place, made[1]), (there, made[1])):
        async with here.open() as token:
            (row,) = rows_of([domain_key])
            material = await token.custody.generate(identity(), row)
            await use(token, material, "")
            await token.custody.prove(row)
        searches.append(reveals_binding_key(material))
    buffers = {data for _, data in found.returned()}
    assert [data for data in buffers if any(reveals(data) for reveals in searches)] == []
    assert found.origins_of_values() <= READ


def test_the_recorder_knows_whose_value_was_read(recorded: tuple[TokenPlace, Recorder]) -> None:
    """A key that was generated and is readable shows as such, one that is not does not."""
    place, found = recorded
    with as_user(place) as here:
        for readable in (False, True):
            assert found.origins_of_values() == set()
            key = here.raw.generate(
                here.session,
                int(Mechanism.AES_KEY_GEN),
                {**session_key(KeyType.AES, 32, (), readable=readable), Attribute.VALUE_LEN: 32},
            )
            here.raw.attributes(here.session, key, (Attribute.CLASS, Attribute.VALUE))
    assert found.origins_of_values() == {recorder.GENERATE_KEY}
