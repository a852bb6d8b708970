"""DeriveSharedSecret."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, x25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from tests.support.clients import code_of
from tests.support.harness import Harness

CURVES = {"ECC_NIST_P256": ec.SECP256R1(), "ECC_NIST_P384": ec.SECP384R1(), "ECC_NIST_P521": ec.SECP521R1()}


@pytest.fixture(name="kms", scope="module")
def _kms(harness: Harness) -> Any:
    return harness.client()


@pytest.fixture(name="keys", scope="module")
def _keys(kms: Any) -> dict[str, str]:
    """One key on each curve."""
    return {spec: kms.create_key(KeySpec=spec, KeyUsage="KEY_AGREEMENT")["KeyMetadata"]["KeyId"] for spec in CURVES}


def spki(private: Any) -> bytes:
    """The public key as the API has it."""
    encoded: bytes = private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return encoded


def derive(kms: Any, key_id: str, public_key: bytes, **members: Any) -> Any:
    """Ask for the secret."""
    return kms.derive_shared_secret(KeyId=key_id, PublicKey=public_key, KeyAgreementAlgorithm="ECDH", **members)


@pytest.mark.parametrize("spec", CURVES)
def test_both_sides_have_one_secret(kms: Any, keys: dict[str, str], spec: str) -> None:
    """The secret is what a library derives from the peer's private key: the raw x coordinate."""
    own = load_der_public_key(kms.get_public_key(KeyId=keys[spec])["PublicKey"])
    assert isinstance(own, ec.EllipticCurvePublicKey)
    for _ in range(3):
        peer = ec.generate_private_key(CURVES[spec])
        answer = derive(kms, keys[spec], spki(peer))
        assert answer["SharedSecret"] == peer.exchange(ec.ECDH(), own)
        assert (answer["KeyAgreementAlgorithm"], answer["KeyOrigin"]) == ("ECDH", "AWS_KMS")


def test_two_keys_of_the_daemon_agree(kms: Any) -> None:
    """Each side with the other's public key."""
    pair = [kms.create_key(KeySpec="ECC_NIST_P256", KeyUsage="KEY_AGREEMENT")["KeyMetadata"]["KeyId"] for _ in range(2)]
    public = [kms.get_public_key(KeyId=key_id)["PublicKey"] for key_id in pair]
    secrets = {derive(kms, pair[0], public[1])["SharedSecret"], derive(kms, pair[1], public[0])["SharedSecret"]}
    assert len(secrets) == 1


def test_peers_that_are_refused(kms: Any, keys: dict[str, str]) -> None:
    """Another curve, another kind of key, a point off the curve, and bytes: ValidationException."""
    key_id = keys["ECC_NIST_P256"]
    good = spki(ec.generate_private_key(ec.SECP256R1()))
    off_curve = good[:-1] + bytes([good[-1] ^ 1])
    others = [
        *(spki(ec.generate_private_key(curve)) for curve in (ec.SECP384R1(), ec.SECP256K1())),
        *(spki(ed25519.Ed25519PrivateKey.generate()), spki(x25519.X25519PrivateKey.generate())),
    ]
    for peer in (off_curve, *others, b"x", good[:-1], good + b"\0", bytes(8192)):
        assert code_of(derive, kms, key_id, peer) == "ValidationException"


def test_dry_run_and_recipient(kms: Any, keys: dict[str, str]) -> None:
    """DryRun derives nothing; Recipient is refused by name."""
    peer = spki(ec.generate_private_key(ec.SECP256R1()))
    assert code_of(derive, kms, keys["ECC_NIST_P256"], peer, DryRun=True) == "DryRunOperationException"
    recipient = {"KeyEncryptionAlgorithm": "RSAES_OAEP_SHA_256", "AttestationDocument": b"x"}
    with pytest.raises(kms.exceptions.ClientError, match="Recipient is not supported"):
        derive(kms, keys["ECC_NIST_P256"], peer, Recipient=recipient)
