"""Encrypt, Decrypt and ReEncrypt with RSA keys, and between kinds of keys."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import load_der_public_key

from tests.support.clients import code_of
from tests.support.harness import Harness

SHA_1 = {"EncryptionAlgorithm": "RSAES_OAEP_SHA_1"}
LONGEST = 214
"""RFC 8017 section 7.1.1: k - 2 hLen - 2 bytes."""


@pytest.fixture(name="kms", scope="module")
def _kms(harness: Harness) -> Any:
    return harness.client()


@pytest.fixture(name="rsa_key", scope="module")
def _rsa_key(kms: Any) -> str:
    return str(kms.create_key(KeySpec="RSA_2048", KeyUsage="ENCRYPT_DECRYPT")["KeyMetadata"]["KeyId"])


@pytest.fixture(name="symmetric_key", scope="module")
def _symmetric_key(kms: Any) -> str:
    return str(kms.create_key()["KeyMetadata"]["KeyId"])


@pytest.mark.parametrize("length", [1, 32, LONGEST])
def test_what_was_encrypted_decrypts(kms: Any, rsa_key: str, length: int) -> None:
    """The ciphertext is raw RSA, as long as the modulus, and different each time."""
    plaintext = bytes(range(length))
    answers = [kms.encrypt(KeyId=rsa_key, Plaintext=plaintext, **SHA_1) for _ in range(2)]
    assert {len(answer["CiphertextBlob"]) for answer in answers} == {256}
    assert answers[0]["CiphertextBlob"] != answers[1]["CiphertextBlob"]
    for answer in answers:
        assert answer["EncryptionAlgorithm"] == "RSAES_OAEP_SHA_1"
        opened = kms.decrypt(CiphertextBlob=answer["CiphertextBlob"], KeyId=rsa_key, **SHA_1)
        assert opened["Plaintext"] == plaintext
        assert opened["EncryptionAlgorithm"] == "RSAES_OAEP_SHA_1"
        assert "KeyMaterialId" not in opened


def test_others_encrypt_with_the_public_key(kms: Any, rsa_key: str) -> None:
    """What a library encrypts under the public key, Decrypt opens."""
    public = load_der_public_key(kms.get_public_key(KeyId=rsa_key)["PublicKey"])
    assert isinstance(public, rsa.RSAPublicKey)
    sha_1 = hashes.SHA1()  # noqa: S303 (RSAES_OAEP_SHA_1 is an algorithm of the API)
    blob = public.encrypt(b"from outside", padding.OAEP(padding.MGF1(sha_1), sha_1, None))
    assert kms.decrypt(CiphertextBlob=blob, KeyId=rsa_key, **SHA_1)["Plaintext"] == b"from outside"


def test_the_longest_plaintext(kms: Any, rsa_key: str) -> None:
    """One byte more is a ValidationException that names the limit."""
    with pytest.raises(kms.exceptions.ClientError, match=f"cannot encrypt data larger than {LONGEST} bytes") as refused:
        kms.encrypt(KeyId=rsa_key, Plaintext=bytes(LONGEST + 1), **SHA_1)
    assert refused.value.response["Error"]["Code"] == "ValidationException"


def test_every_fault_of_a_ciphertext_is_the_same_error(kms: Any, rsa_key: str) -> None:
    """Changed, short, long, zero, and larger than the modulus: InvalidCiphertextException without a message."""
    blob = kms.encrypt(KeyId=rsa_key, Plaintext=b"x", **SHA_1)["CiphertextBlob"]
    changed = blob[:100] + bytes([blob[100] ^ 1]) + blob[101:]
    for wrong in (changed, blob[:-1], blob + b"\0", bytes(256), b"\xff" * 256, b"x"):
        with pytest.raises(kms.exceptions.InvalidCiphertextException) as refused:
            kms.decrypt(CiphertextBlob=wrong, KeyId=rsa_key, **SHA_1)
        assert refused.value.response["Error"].get("Message", "") == ""


def test_the_key_must_be_named(kms: Any) -> None:
    """A raw RSA ciphertext names no key."""
    assert code_of(kms.decrypt, CiphertextBlob=bytes(256), **SHA_1) == "ValidationException"


def test_algorithms_do_not_cross(kms: Any, rsa_key: str, symmetric_key: str) -> None:
    """An RSA key without algorithm, or a symmetric key with one of RSA, is InvalidKeyUsageException."""
    assert code_of(kms.encrypt, KeyId=rsa_key, Plaintext=b"x") == "InvalidKeyUsageException"
    assert code_of(kms.encrypt, KeyId=symmetric_key, Plaintext=b"x", **SHA_1) == "InvalidKeyUsageException"
    blob = kms.encrypt(KeyId=symmetric_key, Plaintext=b"x")["CiphertextBlob"]
    assert code_of(kms.decrypt, CiphertextBlob=blob, KeyId=rsa_key) == "InvalidKeyUsageException"
    assert code_of(kms.decrypt, CiphertextBlob=blob, KeyId=symmetric_key, **SHA_1) == "InvalidKeyUsageException"


def test_there_is_no_encryption_context(kms: Any, rsa_key: str) -> None:
    """It is refused, for it could not be authenticated."""
    context = {"EncryptionContext": {"a": "b"}}
    assert code_of(kms.encrypt, KeyId=rsa_key, Plaintext=b"x", **SHA_1, **context) == "ValidationException"
    blob = kms.encrypt(KeyId=rsa_key, Plaintext=b"x", **SHA_1)["CiphertextBlob"]
    assert code_of(kms.decrypt, CiphertextBlob=blob, KeyId=rsa_key, **SHA_1, **context) == "ValidationException"


def test_re_encrypt_between_kinds(kms: Any, rsa_key: str, symmetric_key: str) -> None:
    """Symmetric to RSA and back; the answer names both algorithms, and material ids of symmetric keys only."""
    blob = kms.encrypt(KeyId=symmetric_key, Plaintext=b"move me", EncryptionContext={"a": "b"})["CiphertextBlob"]
    moved = kms.re_encrypt(
        CiphertextBlob=blob,
        SourceEncryptionContext={"a": "b"},
        DestinationKeyId=rsa_key,
        DestinationEncryptionAlgorithm="RSAES_OAEP_SHA_1",
    )
    assert moved["SourceEncryptionAlgorithm"] == "SYMMETRIC_DEFAULT"
    assert moved["DestinationEncryptionAlgorithm"] == "RSAES_OAEP_SHA_1"
    assert "SourceKeyMaterialId" in moved
    assert "DestinationKeyMaterialId" not in moved
    assert kms.decrypt(CiphertextBlob=moved["CiphertextBlob"], KeyId=rsa_key, **SHA_1)["Plaintext"] == b"move me"
    back = kms.re_encrypt(
        CiphertextBlob=moved["CiphertextBlob"],
        SourceKeyId=rsa_key,
        SourceEncryptionAlgorithm="RSAES_OAEP_SHA_1",
        DestinationKeyId=symmetric_key,
    )
    assert kms.decrypt(CiphertextBlob=back["CiphertextBlob"])["Plaintext"] == b"move me"
    long = kms.encrypt(KeyId=symmetric_key, Plaintext=bytes(LONGEST + 1))["CiphertextBlob"]
    too_long = {"DestinationKeyId": rsa_key, "DestinationEncryptionAlgorithm": "RSAES_OAEP_SHA_1"}
    assert code_of(kms.re_encrypt, CiphertextBlob=long, **too_long) == "ValidationException"


def test_a_dry_run_may_ignore_the_ciphertext(kms: Any, rsa_key: str, symmetric_key: str) -> None:
    """DryRunModifiers asks for permission alone: no ciphertext is needed, and none is opened."""
    ignore = {"DryRun": True, "DryRunModifiers": ["IGNORE_CIPHERTEXT"]}
    assert code_of(kms.decrypt, KeyId=symmetric_key, **ignore) == "DryRunOperationException"
    assert code_of(kms.decrypt, KeyId=symmetric_key, CiphertextBlob=b"x", **ignore) == "DryRunOperationException"
    assert code_of(kms.decrypt, KeyId=rsa_key, **SHA_1, **ignore) == "DryRunOperationException"
    pair = {"SourceKeyId": symmetric_key, "DestinationKeyId": symmetric_key}
    assert code_of(kms.re_encrypt, **pair, **ignore) == "DryRunOperationException"
    assert code_of(kms.decrypt, **ignore) == "ValidationException"
    assert code_of(kms.decrypt, KeyId=symmetric_key, DryRunModifiers=["IGNORE_CIPHERTEXT"]) == "ValidationException"
    assert code_of(kms.decrypt, KeyId=symmetric_key) == "ValidationException"
    kms.disable_key(KeyId=symmetric_key)
    assert code_of(kms.decrypt, KeyId=symmetric_key, **ignore) == "DisabledException"
    kms.enable_key(KeyId=symmetric_key)
