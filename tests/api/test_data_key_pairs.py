"""GenerateDataKeyPair and GenerateDataKeyPairWithoutPlaintext."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mlkem, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_private_key

from tests.support.clients import code_of
from tests.support.harness import Harness

SPECS = {
    "RSA_2048": (rsa.RSAPrivateKey, 2048),
    "RSA_3072": (rsa.RSAPrivateKey, 3072),
    "ECC_NIST_P256": (ec.EllipticCurvePrivateKey, 256),
    "ECC_NIST_P384": (ec.EllipticCurvePrivateKey, 384),
    "ECC_NIST_P521": (ec.EllipticCurvePrivateKey, 521),
    "ECC_SECG_P256K1": (ec.EllipticCurvePrivateKey, 256),
    "ECC_NIST_EDWARDS25519": (ed25519.Ed25519PrivateKey, 0),
    "ML_KEM_768": (mlkem.MLKEM768PrivateKey, 0),
    "ML_KEM_1024": (mlkem.MLKEM1024PrivateKey, 0),
}


@pytest.fixture(name="kms", scope="module")
def _kms(harness: Harness) -> Any:
    return harness.client()


@pytest.fixture(name="key_id", scope="module")
def _key_id(kms: Any) -> str:
    return str(kms.create_key()["KeyMetadata"]["KeyId"])


@pytest.mark.parametrize("spec", SPECS)
def test_a_pair_is_whole(kms: Any, key_id: str, spec: str) -> None:
    """The private key is PKCS#8 of the spec; the public key is its own; the blob opens with the context only."""
    context = {"EncryptionContext": {"pair": "1"}}
    answer = kms.generate_data_key_pair(KeyId=key_id, KeyPairSpec=spec, **context)
    kind, bits = SPECS[spec]
    private = load_der_private_key(answer["PrivateKeyPlaintext"], None)
    assert isinstance(private, kind)
    assert bits == getattr(private, "key_size", 0)
    public = private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert answer["PublicKey"] == public
    assert answer["KeyPairSpec"] == spec
    assert len(answer["KeyMaterialId"]) == 64
    blob = answer["PrivateKeyCiphertextBlob"]
    assert kms.decrypt(CiphertextBlob=blob, **context)["Plaintext"] == answer["PrivateKeyPlaintext"]
    assert code_of(kms.decrypt, CiphertextBlob=blob) == "InvalidCiphertextException"


def test_without_plaintext(kms: Any, key_id: str) -> None:
    """The private key is in the blob only, and fits the public key; two pairs differ."""
    answers = [
        kms.generate_data_key_pair_without_plaintext(KeyId=key_id, KeyPairSpec="ECC_NIST_P256") for _ in range(2)
    ]
    assert answers[0]["PublicKey"] != answers[1]["PublicKey"]
    for answer in answers:
        assert "PrivateKeyPlaintext" not in answer
        opened = kms.decrypt(CiphertextBlob=answer["PrivateKeyCiphertextBlob"])["Plaintext"]
        public = load_der_private_key(opened, None).public_key()
        assert answer["PublicKey"] == public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


@pytest.mark.parametrize("spec", ["SM2", "ML_KEM_512"])
def test_specs_that_are_not_offered(kms: Any, key_id: str, spec: str) -> None:
    """They are refused by name."""
    with pytest.raises(kms.exceptions.UnsupportedOperationException, match=spec):
        kms.generate_data_key_pair(KeyId=key_id, KeyPairSpec=spec)


def test_dry_run_and_recipient(kms: Any, key_id: str) -> None:
    """DryRun gives no pair; Recipient is refused by name."""
    pair = {"KeyId": key_id, "KeyPairSpec": "ECC_NIST_P256"}
    assert code_of(kms.generate_data_key_pair, **pair, DryRun=True) == "DryRunOperationException"
    recipient = {"KeyEncryptionAlgorithm": "RSAES_OAEP_SHA_256", "AttestationDocument": b"x"}
    assert code_of(kms.generate_data_key_pair, **pair, Recipient=recipient) == "UnsupportedOperationException"


def test_the_record_shows_no_key(harness: Harness, kms: Any, key_id: str) -> None:
    """The audit record has key, spec and context."""
    kms.generate_data_key_pair(KeyId=key_id, KeyPairSpec="ECC_NIST_P384", EncryptionContext={"a": "b"})
    record = [one for one in harness.records() if one["eventName"] == "GenerateDataKeyPair"][-1]
    assert record["requestParameters"] == {
        "keyId": key_id,
        "keyPairSpec": "ECC_NIST_P384",
        "encryptionContext": {"a": "b"},
    }
    assert record["responseElements"] is None
