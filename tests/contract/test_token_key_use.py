"""Decryption, key agreement and MACs by keys in the token, compared with `cryptography`."""

from __future__ import annotations

import asyncio
import hmac
import secrets
from itertools import count

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import load_der_public_key
from pkcs11 import Attribute, KeyType

from kmsd.adapters.pkcs11 import Pkcs11Token
from kmsd.adapters.pkcs11.templates import session_key
from kmsd.domain.key_spec import (
    HMAC_BITS,
    EncryptionAlgorithm,
    KeySpec,
    KeyUsage,
    MacAlgorithm,
    SigningAlgorithm,
)
from kmsd.ports import MechanismMissing, NoSuchObject, NotAuthentic, TokenError
from tests.support.key_kinds import mac_of, new_id, oaep, pair_of, point_of
from tests.support.tokens import TokenPlace

DECRYPT, AGREE, MAC = KeyUsage.ENCRYPT_DECRYPT, KeyUsage.KEY_AGREEMENT, KeyUsage.GENERATE_VERIFY_MAC
NIST = [KeySpec.ECC_NIST_P256, KeySpec.ECC_NIST_P384, KeySpec.ECC_NIST_P521]
OAEP_SHA_1, OAEP_SHA_256 = EncryptionAlgorithm.RSAES_OAEP_SHA_1, EncryptionAlgorithm.RSAES_OAEP_SHA_256


# --- RSAES-OAEP -------------------------------------------------------------------------------------


async def rsa_pair(token: Pkcs11Token) -> tuple[bytes, rsa.RSAPublicKey]:
    """A pair that decrypts."""
    object_id, public = await pair_of(token, KeySpec.RSA_2048, DECRYPT)
    key = load_der_public_key(public)
    assert isinstance(key, rsa.RSAPublicKey)
    return object_id, key


def faulty(key: rsa.RSAPublicKey, ciphertext: bytes) -> dict[str, bytes]:
    """Ciphertexts with every fault."""
    modulus = key.public_numbers().n
    return {
        "changed at the end": ciphertext[:-1] + bytes([ciphertext[-1] ^ 1]),
        "changed at the start": bytes([ciphertext[0] ^ 1]) + ciphertext[1:],
        "one byte short": ciphertext[1:],
        "one byte long": ciphertext + b"\0",
        "zero": bytes(256),
        "not below the modulus": modulus.to_bytes(256, "big"),
        "empty": b"",
        "another padding": key.encrypt(b"text", padding.PKCS1v15()),
        "another hash": key.encrypt(b"text", oaep("SHA_384")),
    }


async def test_rsa_decryption(token: Pkcs11Token, token_place: TokenPlace) -> None:
    """What `cryptography` encrypted is decrypted; every fault is the same error, and the token stays well."""
    object_id, key = await rsa_pair(token)
    offer = (await token.key_offers())[KeySpec.RSA_2048, DECRYPT]
    for algorithm in map(EncryptionAlgorithm, offer.algorithms):
        for plaintext in (b"", secrets.token_bytes(190)):
            ciphertext = key.encrypt(plaintext, oaep(algorithm))
            assert await token.decrypt_rsa(object_id, algorithm, ciphertext) == plaintext
    for fault, wrong in faulty(key, key.encrypt(b"text", oaep(OAEP_SHA_1))).items():
        with pytest.raises(NotAuthentic):
            pytest.fail(f"{fault}: {await token.decrypt_rsa(object_id, OAEP_SHA_1, wrong)!r}")
    for name in offer.lacking:
        with pytest.raises(MechanismMissing, match="CKM_RSA_PKCS_OAEP"):
            await token.decrypt_rsa(object_id, EncryptionAlgorithm(name), key.encrypt(b"t", oaep(name)))
    with pytest.raises(NoSuchObject):
        await token.decrypt_rsa(new_id(), OAEP_SHA_1, bytes(256))
    await token.check()
    # SoftHSM 2.6.1 has OAEP with SHA-1 only.
    expected = (OAEP_SHA_1,) if token_place.kind == "softhsm" else (OAEP_SHA_1, OAEP_SHA_256)
    assert token_place.kind == "named" or offer.algorithms == expected


async def test_decryption_while_the_key_is_destroyed(softhsm_place: TokenPlace) -> None:
    """Each call decrypts, or says that there is no such object."""
    async with softhsm_place.open() as token:
        object_id, key = await rsa_pair(token)
        await token.key_offers()
        ciphertext = key.encrypt(b"text", oaep(OAEP_SHA_1))
        calls = [asyncio.create_task(token.decrypt_rsa(object_id, OAEP_SHA_1, ciphertext)) for _ in range(20)]
        calls.append(asyncio.create_task(token.destroy(object_id)))  # type: ignore[arg-type]
        calls += [asyncio.create_task(token.decrypt_rsa(object_id, OAEP_SHA_1, ciphertext)) for _ in range(20)]
        for result in await asyncio.gather(*calls, return_exceptions=True):
            assert result in (b"text", None) or isinstance(result, NoSuchObject)
        await token.check()


# --- ECDH -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", NIST)
async def test_key_agreement(token: Pkcs11Token, spec: KeySpec) -> None:
    """Both sides have the same secret; one that begins with a zero byte keeps it."""
    assert (await token.key_offers())[spec, AGREE].algorithms == ("ECDH",)
    object_id, public = await pair_of(token, spec, AGREE)
    key = load_der_public_key(public)
    assert isinstance(key, ec.EllipticCurvePublicKey)
    peers = (ec.derive_private_key(number, key.curve) for number in count(2))
    short = next(peer for peer in peers if not peer.exchange(ec.ECDH(), key)[0])
    for peer in (ec.generate_private_key(key.curve), short):
        secret = await token.agree(object_id, point_of(peer.public_key()))
        assert secret == peer.exchange(ec.ECDH(), key)
        assert len(secret) == (key.curve.key_size + 7) // 8
    with pytest.raises(NoSuchObject):
        await token.agree(new_id(), point_of(short.public_key()))


async def test_agreement_leaves_no_object(token: Pkcs11Token) -> None:
    """The secret's session object is destroyed, after points that the token refuses too."""
    object_id, _ = await pair_of(token, KeySpec.ECC_NIST_P256, AGREE)
    connection = token._link.require().connection
    readable: dict[int, bool] = {Attribute.EXTRACTABLE: True, Attribute.SENSITIVE: False}
    for point in (point_of(ec.generate_private_key(ec.SECP256R1()).public_key()), bytes(65), b"\4" + bytes(64)):
        try:
            assert len(await token.agree(object_id, point)) == 32
        except TokenError:
            assert point[1:] == bytes(64)
        assert connection.run(lambda session: connection.raw.find(session.handle, readable)) == []
    await token.check()


async def test_a_key_serves_one_usage(softhsm_place: TokenPlace) -> None:
    """A key for agreement does not sign, and one for signatures does not agree. NSS does not enforce CKA_DERIVE."""
    async with softhsm_place.open() as token:
        agreeing, _ = await pair_of(token, KeySpec.ECC_NIST_P256, AGREE)
        signing, _ = await pair_of(token, KeySpec.ECC_NIST_P256, KeyUsage.SIGN_VERIFY)
        with pytest.raises(TokenError):
            await token.agree(signing, point_of(ec.generate_private_key(ec.SECP256R1()).public_key()))
        with pytest.raises(TokenError):
            await token.sign(agreeing, SigningAlgorithm.ECDSA_SHA_256, bytes(32), is_digest=True)
        await token.check()


# --- MACs -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", list(HMAC_BITS))
async def test_macs(token: Pkcs11Token, spec: KeySpec) -> None:
    """A MAC has the length of the hash, and is the same each time; other keys and messages have others."""
    algorithm, length = mac_of(spec), HMAC_BITS[spec] // 8
    key, other = new_id(), new_id()
    for object_id in (key, other):
        await token.generate_mac_key(object_id, spec)
    long = secrets.token_bytes(4096)
    macs = [await token.mac(object_id, algorithm, message) for object_id in (key, other) for message in (b"m", long)]
    assert [len(mac) for mac in macs] == [length] * 4
    assert len(set(macs)) == 4
    assert await token.mac(key, algorithm, b"m") == macs[0]
    with pytest.raises(NoSuchObject):
        await token.mac(new_id(), algorithm, b"m")
    await token.destroy(key)
    with pytest.raises(NoSuchObject):
        await token.mac(key, algorithm, b"m")
    assert await token.mac(other, algorithm, b"m") == macs[2]


@pytest.mark.parametrize("spec", list(HMAC_BITS))
async def test_macs_are_those_of_hmac(token: Pkcs11Token, spec: KeySpec) -> None:
    """Under a key that the test knows, as Python computes them (RFC 2104)."""
    algorithm, value, object_id = mac_of(spec), secrets.token_bytes(HMAC_BITS[spec] // 8), new_id()
    template = session_key(KeyType.GENERIC_SECRET, len(value), (Attribute.SIGN,))
    del template[Attribute.VALUE_LEN]
    connection = token._link.require().connection
    connection.raw.create(connection.keeper.handle, {**template, Attribute.VALUE: value, Attribute.ID: object_id})
    for message in (b"m", secrets.token_bytes(63), secrets.token_bytes(4096)):
        expected = hmac.digest(value, message, algorithm.removeprefix("HMAC_").replace("_", ""))
        assert await token.mac(object_id, algorithm, message) == expected


async def test_macs_at_once_while_the_key_is_destroyed(token: Pkcs11Token) -> None:
    """Inline and on threads: each call computes, or says that there is no such object."""
    object_id, algorithm = new_id(), MacAlgorithm.HMAC_SHA_256
    await token.generate_mac_key(object_id, KeySpec.HMAC_256)
    expected = await token.mac(object_id, algorithm, b"m")
    calls = [asyncio.create_task(token.mac(object_id, algorithm, b"m")) for _ in range(50)]
    destruction = asyncio.create_task(token.destroy(object_id))
    calls += [asyncio.create_task(token.mac(object_id, algorithm, b"m")) for _ in range(50)]
    for result in await asyncio.gather(*calls, return_exceptions=True):
        assert result == expected or isinstance(result, NoSuchObject)
    await destruction
    await token.check()
