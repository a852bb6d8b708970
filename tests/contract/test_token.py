"""What the Token port promises, on every token."""

from __future__ import annotations

import secrets

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.serialization import load_der_public_key

from kmsd.adapters.pkcs11 import Pkcs11Token
from kmsd.domain.key_spec import KeySpec, KeyUsage, SigningAlgorithm
from kmsd.domain.material import Algorithm
from kmsd.ports import MechanismMissing, NoSuchObject, NotAuthentic, ObjectReport, TokenError, TokenUnavailable
from tests.support.tokens import TokenPlace

AAD = b"header and context"
ECDSA = SigningAlgorithm.ECDSA_SHA_256
BOTH = pytest.mark.parametrize("algorithm", list(Algorithm), ids=lambda a: a.name)


def new_id() -> bytes:
    """A fresh object id."""
    return secrets.token_bytes(16)


async def key_of(token: Pkcs11Token, algorithm: Algorithm) -> bytes:
    """A fresh key for the algorithm, if the token offers it."""
    if algorithm not in token.capabilities.algorithms:
        pytest.skip(f"the token does not offer {algorithm.name}")
    object_id = new_id()
    await token.generate_key(object_id, algorithm)
    return object_id


async def pair_of(token: Pkcs11Token) -> tuple[bytes, bytes]:
    """A fresh signing pair and its public key."""
    if "CKM_ECDSA" not in token.capabilities.mechanisms:
        pytest.skip("the token does not sign")
    object_id = new_id()
    return object_id, await token.generate_key_pair(object_id, KeySpec.ECC_NIST_P256, KeyUsage.SIGN_VERIFY)


@BOTH
@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, 4096, 20_000])
async def test_what_was_sealed_opens(token: Pkcs11Token, algorithm: Algorithm, size: int) -> None:
    """The sealed text is nonce, ciphertext and tag, and opens to the plaintext, at every size."""
    key, plaintext = await key_of(token, algorithm), secrets.token_bytes(size)
    sealed = await token.encrypt(key, algorithm, plaintext, AAD)
    assert len(sealed) == algorithm.nonce_length + size + 16
    assert await token.decrypt(key, algorithm, sealed, AAD) == plaintext


@BOTH
async def test_nonces_are_fresh(token: Pkcs11Token, algorithm: Algorithm) -> None:
    """No two sealed texts share a nonce."""
    key = await key_of(token, algorithm)
    sealed = [await token.encrypt(key, algorithm, b"same", AAD) for _ in range(500)]
    assert len({text[: algorithm.nonce_length] for text in sealed}) == 500


@BOTH
async def test_every_changed_part_is_refused(token: Pkcs11Token, algorithm: Algorithm) -> None:
    """A changed nonce, ciphertext or tag, a cut, an extension and other associated data are NotAuthentic."""
    key = await key_of(token, algorithm)
    sealed = await token.encrypt(key, algorithm, b"plaintext", AAD)
    changed = [sealed[:i] + bytes([sealed[i] ^ 0x80]) + sealed[i + 1 :] for i in range(len(sealed))]
    cuts = [sealed[:n] for n in (0, 1, algorithm.nonce_length, algorithm.nonce_length + 15, len(sealed) - 1)]
    for bad in (*changed, *cuts, sealed + b"\0", b"\0" + sealed):
        with pytest.raises(NotAuthentic):
            await token.decrypt(key, algorithm, bad, AAD)
    for other in (b"", AAD + b"\0", AAD[:-1], b"other"):
        with pytest.raises(NotAuthentic):
            await token.decrypt(key, algorithm, sealed, other)
    assert await token.decrypt(key, algorithm, sealed, AAD) == b"plaintext"


@BOTH
async def test_another_key_does_not_open(token: Pkcs11Token, algorithm: Algorithm) -> None:
    """Two keys have nothing in common."""
    one, other = await key_of(token, algorithm), await key_of(token, algorithm)
    sealed = await token.encrypt(one, algorithm, b"plaintext", AAD)
    with pytest.raises(NotAuthentic):
        await token.decrypt(other, algorithm, sealed, AAD)


async def test_empty_associated_data_never_reach_the_token(token: Pkcs11Token) -> None:
    """SoftHSM 2.6.1 crashes on them."""
    key = await key_of(token, max(token.capabilities.algorithms))
    with pytest.raises(ValueError, match="must not be empty"):
        await token.encrypt(key, max(token.capabilities.algorithms), b"text", b"")


@BOTH
async def test_an_unknown_object_is_told(token: Pkcs11Token, algorithm: Algorithm) -> None:
    """No object of the id, and a token that is well: NoSuchObject from every method that needs one."""
    if algorithm not in token.capabilities.algorithms:
        pytest.skip(f"the token does not offer {algorithm.name}")
    with pytest.raises(NoSuchObject):
        await token.encrypt(new_id(), algorithm, b"text", AAD)
    with pytest.raises(NoSuchObject):
        await token.decrypt(new_id(), algorithm, bytes(64), AAD)
    with pytest.raises(NoSuchObject):
        await token.sign(new_id(), ECDSA, bytes(32), is_digest=True)
    with pytest.raises(NoSuchObject):
        await token.public_key(new_id())
    with pytest.raises(NoSuchObject):
        await token.attributes(new_id())
    await token.check()


@BOTH
async def test_a_sealing_key_is_guarded_and_has_one_role(
    token: Pkcs11Token, token_place: TokenPlace, algorithm: Algorithm
) -> None:
    """Never to leave the token, never to be changed, and of use for nothing but its algorithm."""
    shown = await token.attributes(await key_of(token, algorithm))
    derives = algorithm is Algorithm.XAES_256_GCM
    expected = {
        "CKA_TOKEN": True,
        "CKA_PRIVATE": True,
        "CKA_SENSITIVE": True,
        "CKA_ALWAYS_SENSITIVE": True,
        "CKA_EXTRACTABLE": False,
        "CKA_NEVER_EXTRACTABLE": True,
        "CKA_MODIFIABLE": False,
        "CKA_ENCRYPT": not derives,
        "CKA_DECRYPT": not derives,
        "CKA_DERIVE": derives,
        "CKA_SIGN": False,
        "CKA_VERIFY": False,
        "CKA_WRAP": False,
        "CKA_UNWRAP": False,
        "CKA_LABEL": token_place.object_label.encode(),
        "CKA_VALUE_LEN": 32,
    }
    assert {name: shown.get(name) for name in expected} == expected
    assert "CKA_VALUE" not in shown


async def test_a_signing_pair_signs_and_does_nothing_else(token: Pkcs11Token) -> None:
    """The private half has SIGN alone."""
    shown = await token.attributes((await pair_of(token))[0])
    roles = ("CKA_SIGN", "CKA_DECRYPT", "CKA_UNWRAP", "CKA_DERIVE", "CKA_EXTRACTABLE", "CKA_MODIFIABLE")
    assert [shown[name] for name in roles] == [True, False, False, False, False, False]
    assert (shown["CKA_SENSITIVE"], shown["CKA_PRIVATE"], shown["CKA_TOKEN"]) == (True, True, True)


async def test_signatures_are_verified_by_the_public_key(token: Pkcs11Token) -> None:
    """`sign` answers with the DER signature of the digest, under the key whose public half was given."""
    pair, public = await pair_of(token)
    verifier = load_der_public_key(public)
    assert isinstance(verifier, ec.EllipticCurvePublicKey)
    assert isinstance(verifier.curve, ec.SECP256R1)
    scheme = ec.ECDSA(utils.Prehashed(hashes.SHA256()))
    for _ in range(20):
        digest = secrets.token_bytes(32)
        verifier.verify(await token.sign(pair, ECDSA, digest, is_digest=True), digest, scheme)
    with pytest.raises(InvalidSignature):
        verifier.verify(await token.sign(pair, ECDSA, bytes(32), is_digest=True), bytes(31) + b"\1", scheme)
    assert await token.public_key(pair) == public


@pytest.mark.parametrize("count", [1, 32, 1024, 65_536])
async def test_random_bytes(token: Pkcs11Token, count: int) -> None:
    """As many as were asked for, and others each time."""
    first, second = await token.random(count), await token.random(count)
    assert (len(first), len(second)) == (count, count)
    assert first != second or count == 1


@pytest.mark.parametrize("count", [0, -1, 65_537])
async def test_random_counts_out_of_range(token: Pkcs11Token, count: int) -> None:
    """The port's range is kept."""
    with pytest.raises(ValueError, match="random bytes"):
        await token.random(count)


@BOTH
async def test_destroyed_objects_are_gone(token: Pkcs11Token, algorithm: Algorithm) -> None:
    """After `destroy` nothing opens, the id is free of objects, and destroying again is no error."""
    key, other = await key_of(token, algorithm), await key_of(token, algorithm)
    sealed = await token.encrypt(key, algorithm, b"text", AAD)
    await token.destroy(key)
    with pytest.raises(NoSuchObject):
        await token.decrypt(key, algorithm, sealed, AAD)
    with pytest.raises(NoSuchObject):
        await token.encrypt(key, algorithm, b"text", AAD)
    await token.destroy(key)
    assert list(await token.list_objects()) == [ObjectReport(other, "secret", "")]


async def test_both_halves_of_a_pair_are_destroyed(token: Pkcs11Token) -> None:
    """Nothing of the pair stays."""
    pair, _ = await pair_of(token)
    await token.destroy(pair)
    assert list(await token.list_objects()) == []
    with pytest.raises(NoSuchObject):
        await token.public_key(pair)


async def test_objects_outlive_the_login(token_place: TokenPlace) -> None:
    """What was made is there, and opens, after the token was closed and opened again."""
    async with token_place.open() as token:
        algorithm = min(token.capabilities.algorithms)
        key, (pair, public) = await key_of(token, algorithm), await pair_of(token)
        sealed = await token.encrypt(key, algorithm, b"text", AAD)
    async with token_place.open(sentinel=key) as token:
        assert await token.decrypt(key, algorithm, sealed, AAD) == b"text"
        assert await token.public_key(pair) == public
        await token.check()
        expected = {(key, "secret", ""), (pair, "private", ""), (pair, "public", "")}
        assert {(r.object_id, r.kind, r.problem) for r in await token.list_objects()} == expected
        with pytest.raises(TokenError, match="sentinel"):
            await token.destroy(key)
    async with token_place.open() as token:
        for object_id in (key, pair):
            await token.destroy(object_id)
        assert list(await token.list_objects()) == []


async def test_a_second_object_of_an_id_is_refused(token: Pkcs11Token) -> None:
    """Ids are never reused: the first object stays as it was."""
    algorithm = min(token.capabilities.algorithms)
    key = await key_of(token, algorithm)
    sealed = await token.encrypt(key, algorithm, b"text", AAD)
    with pytest.raises(TokenError, match="already"):
        await token.generate_key(key, algorithm)
    assert await token.decrypt(key, algorithm, sealed, AAD) == b"text"
    assert len(await token.list_objects()) == 1


@pytest.mark.parametrize("bad", [b"", bytes(15), bytes(17), bytearray(16), "0123456789abcdef"])
async def test_object_ids_are_sixteen_bytes(token: Pkcs11Token, bad: bytes) -> None:
    """Anything else is refused before it comes near a template: there it would corrupt the heap."""
    with pytest.raises(ValueError, match="16 bytes"):
        await token.generate_key(bad, min(token.capabilities.algorithms))
    with pytest.raises(ValueError, match="16 bytes"):
        await token.destroy(bad)


async def test_forgetting_costs_nothing_but_time(token: Pkcs11Token) -> None:
    """After `forget` the object is found again."""
    algorithm = min(token.capabilities.algorithms)
    key = await key_of(token, algorithm)
    sealed = await token.encrypt(key, algorithm, b"text", AAD)
    token.invalidate(key)
    assert token.counters.derived_keys == 0
    assert await token.decrypt(key, algorithm, sealed, AAD) == b"text"


async def test_the_key_of_another_algorithm_does_not_seal(token: Pkcs11Token) -> None:
    """One role per object: where the token holds it, sealing by the other algorithm fails and the token stays well."""
    algorithms = sorted(token.capabilities.algorithms)
    if len(algorithms) < 2:
        pytest.skip("the token offers one algorithm")
    key = await key_of(token, algorithms[0])
    with pytest.raises(TokenError):
        await token.encrypt(key, algorithms[1], b"text", AAD)
    await token.check()


async def test_a_closed_token_refuses(token_place: TokenPlace) -> None:
    """Every method raises TokenUnavailable after `close`."""
    async with token_place.open() as token:
        algorithm = min(token.capabilities.algorithms)
    with pytest.raises(TokenUnavailable):
        await token.random(1)
    with pytest.raises(TokenUnavailable):
        await token.encrypt(new_id(), algorithm, b"text", AAD)
    with pytest.raises(TokenUnavailable):
        await token.generate_key(new_id(), algorithm)
    with pytest.raises(TokenUnavailable):
        await token.check()


async def test_what_was_probed(token: Pkcs11Token) -> None:
    """Each probed mechanism either passed or is listed with what the API loses; an absent one is refused by name."""
    capabilities = token.capabilities
    named = set(capabilities.mechanisms) | {name for name, _ in capabilities.lacking}
    assert named == {"CKM_AES_GCM", "CKM_AES_ECB_ENCRYPT_DATA", "C_GenerateRandom", "CKM_ECDSA"}
    for algorithm in set(Algorithm) - capabilities.algorithms:
        with pytest.raises(MechanismMissing, match=algorithm.name):
            await token.generate_key(new_id(), algorithm)


async def test_who_the_token_is(token: Pkcs11Token, token_place: TokenPlace) -> None:
    """Label, serial, manufacturer and model, without padding."""
    assert token.info.label == token_place.label
    assert token.info.serial == token.info.serial.strip()
    assert token.info.manufacturer
    assert token.info.model
