"""Signatures of every algorithm, verified by `cryptography`."""

from __future__ import annotations

import asyncio
import hashlib
import secrets

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import load_der_public_key

from kmsd.adapters.pkcs11 import Pkcs11Token
from kmsd.domain.key_spec import ALGORITHMS, KeySpec, KeyUsage, SigningAlgorithm, hash_of
from kmsd.ports import MechanismMissing, NoSuchObject, TokenError
from tests.support.key_kinds import new_id, pair_of, verify
from tests.support.tokens import TokenPlace

SIGN = KeyUsage.SIGN_VERIFY
RAW_ONLY = (SigningAlgorithm.ED25519_SHA_512, SigningAlgorithm.ML_DSA_SHAKE_256)
ECC = [spec for spec in KeySpec if spec.startswith("ECC")]
CURVES = {
    KeySpec.ECC_NIST_P256: ec.SECP256R1,
    KeySpec.ECC_NIST_P384: ec.SECP384R1,
    KeySpec.ECC_NIST_P521: ec.SECP521R1,
    KeySpec.ECC_SECG_P256K1: ec.SECP256K1,
}


def digest_of(algorithm: str, message: bytes) -> bytes:
    """The digest that the algorithm signs."""
    return hashlib.new(hash_of(algorithm).replace("_", ""), message).digest()


async def check_signatures(token: Pkcs11Token, object_id: bytes, public: bytes, algorithm: SigningAlgorithm) -> None:
    """A long message, and the digest of a short one; another message is refused."""
    message = secrets.token_bytes(4096)
    signature = await token.sign(object_id, algorithm, message, is_digest=False)
    verify(public, algorithm, message, signature, digest=False)
    with pytest.raises(InvalidSignature):
        verify(public, algorithm, message + b"x", signature, digest=False)
    if algorithm in RAW_ONLY:
        with pytest.raises(ValueError, match="messages"):
            await token.sign(object_id, algorithm, bytes(64), is_digest=True)
        return
    digest = digest_of(algorithm, b"message")
    signature = await token.sign(object_id, algorithm, digest, is_digest=True)
    verify(public, algorithm, digest, signature, digest=True)
    verify(public, algorithm, b"message", signature, digest=False)
    for wrong in (digest[1:], digest + b"\0", b""):
        with pytest.raises(ValueError, match="bytes"):
            await token.sign(object_id, algorithm, wrong, is_digest=True)


async def test_rsa_signatures(token: Pkcs11Token) -> None:
    """All six algorithms, on one pair of 2048 bits."""
    object_id, public = await pair_of(token, KeySpec.RSA_2048, SIGN)
    key = load_der_public_key(public)
    assert isinstance(key, rsa.RSAPublicKey)
    assert (key.key_size, key.public_numbers().e) == (2048, 65537)
    assert await token.public_key(object_id) == public
    algorithms = (await token.key_offers())[KeySpec.RSA_2048, SIGN].algorithms
    assert algorithms == ALGORITHMS[KeySpec.RSA_2048][SIGN]
    for algorithm in algorithms:
        await check_signatures(token, object_id, public, SigningAlgorithm(algorithm))


async def test_long_rsa_keys(softhsm_place: TokenPlace) -> None:
    """The modulus has the length of the spec, and signs."""
    async with softhsm_place.open() as token:
        object_id, public = await pair_of(token, KeySpec.RSA_4096, SIGN)
        key = load_der_public_key(public)
        assert isinstance(key, rsa.RSAPublicKey)
        assert key.key_size == 4096
        await check_signatures(token, object_id, public, SigningAlgorithm.RSASSA_PSS_SHA_512)
        assert [report.problem for report in await token.list_objects()] == ["", ""]


@pytest.mark.parametrize("spec", ECC)
async def test_signatures_on_curves(token: Pkcs11Token, spec: KeySpec) -> None:
    """On every curve that the token offers; elsewhere generation names the mechanism."""
    offer = (await token.key_offers())[spec, SIGN]
    if not offer.algorithms:
        with pytest.raises(MechanismMissing, match="CKM_EC"):
            await token.generate_key_pair(new_id(), spec, SIGN)
        assert await token.list_objects() == []
        return
    object_id, public = await pair_of(token, spec, SIGN)
    key = load_der_public_key(public)
    if spec in CURVES:
        assert isinstance(key, ec.EllipticCurvePublicKey)
        assert isinstance(key.curve, CURVES[spec])
    assert await token.public_key(object_id) == public
    for algorithm in offer.algorithms:
        await check_signatures(token, object_id, public, SigningAlgorithm(algorithm))


async def test_small_halves_of_signatures(token: Pkcs11Token) -> None:
    """An r or s with leading zeros is a shorter INTEGER of the DER signature: among 50 of P-521, some have one."""
    object_id, public = await pair_of(token, KeySpec.ECC_NIST_P521, SIGN)
    lengths = set()
    for number in range(50):
        message = number.to_bytes(2, "big")
        signature = await token.sign(object_id, SigningAlgorithm.ECDSA_SHA_512, message, is_digest=False)
        verify(public, SigningAlgorithm.ECDSA_SHA_512, message, signature, digest=False)
        lengths.add(len(signature))
    assert len(lengths) > 1


async def test_algorithms_without_a_mechanism(token: Pkcs11Token) -> None:
    """Ed25519ph and SM2 are refused by name, with any key."""
    object_id, _ = await pair_of(token, KeySpec.ECC_NIST_P256, SIGN)
    for algorithm in (SigningAlgorithm.ED25519_PH_SHA_512, SigningAlgorithm.SM2DSA):
        for is_digest in (True, False):
            with pytest.raises(MechanismMissing, match=r"Ed25519ph|SM2"):
                await token.sign(object_id, algorithm, bytes(64), is_digest=is_digest)


async def test_a_key_signs_by_its_own_algorithms_only(token: Pkcs11Token) -> None:
    """Another algorithm's mechanism does not take the key; the token stays well."""
    object_id, public = await pair_of(token, KeySpec.ECC_NIST_P256, SIGN)
    for algorithm in (SigningAlgorithm.RSASSA_PSS_SHA_256, SigningAlgorithm.RSASSA_PKCS1_V1_5_SHA_256):
        with pytest.raises(TokenError):
            await token.sign(object_id, algorithm, b"message", is_digest=False)
    await token.check()
    await check_signatures(token, object_id, public, SigningAlgorithm.ECDSA_SHA_256)


async def test_signatures_while_the_key_is_destroyed(token: Pkcs11Token) -> None:
    """Each call signs validly, or says that there is no such object; other keys are not disturbed."""
    other, other_public = await pair_of(token, KeySpec.ECC_NIST_P256, SIGN)
    await token.key_offers()
    for spec, algorithm in (
        (KeySpec.ECC_NIST_P256, SigningAlgorithm.ECDSA_SHA_256),
        (KeySpec.RSA_2048, SigningAlgorithm.RSASSA_PSS_SHA_256),
    ):
        object_id, public = await pair_of(token, spec, SIGN)
        calls = [asyncio.create_task(token.sign(object_id, algorithm, b"m", is_digest=False)) for _ in range(10)]
        destruction = asyncio.create_task(token.destroy(object_id))
        calls += [asyncio.create_task(token.sign(object_id, algorithm, b"m", is_digest=False)) for _ in range(10)]
        results = await asyncio.gather(*calls, return_exceptions=True)
        await destruction
        for result in results:
            if isinstance(result, bytes):
                verify(public, algorithm, b"m", result, digest=False)
            else:
                assert isinstance(result, NoSuchObject), result
        with pytest.raises(NoSuchObject):
            await token.sign(object_id, algorithm, b"m", is_digest=False)
        await check_signatures(token, other, other_public, SigningAlgorithm.ECDSA_SHA_256)
    await token.check()


async def test_many_signatures_at_once(token: Pkcs11Token) -> None:
    """By several keys and algorithms, inline and on threads: each is its own."""
    p256, p384 = [await pair_of(token, spec, SIGN) for spec in (KeySpec.ECC_NIST_P256, KeySpec.ECC_NIST_P384)]
    keys = [(*p256, SigningAlgorithm.ECDSA_SHA_256), (*p384, SigningAlgorithm.ECDSA_SHA_384)]
    work = [(*keys[number % 2], number.to_bytes(2, "big")) for number in range(60)]
    made = await asyncio.gather(
        *(token.sign(object_id, algorithm, message, is_digest=False) for object_id, _, algorithm, message in work)
    )
    for signature, (_, public, algorithm, message) in zip(made, work, strict=True):
        verify(public, algorithm, message, signature, digest=False)
