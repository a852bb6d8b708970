"""Encrypt, Decrypt, ReEncrypt and data keys, over the wire with boto3."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.clients import code_of
from tests.support.harness import Harness


@pytest.fixture(name="kms")
def _kms(harness: Harness) -> Any:
    return harness.client()


@pytest.fixture(name="key_id")
def _key_id(kms: Any) -> str:
    return kms.create_key()["KeyMetadata"]["KeyId"]


@pytest.mark.parametrize("length", [1, 31, 32, 4095, 4096])
def test_what_was_encrypted_decrypts(kms: Any, key_id: str, length: int) -> None:
    """Any plaintext of 1 to 4096 bytes comes back, under the key that the blob names."""
    plaintext = bytes(range(256)) * 16
    blob = kms.encrypt(KeyId=key_id, Plaintext=plaintext[:length])["CiphertextBlob"]
    answer = kms.decrypt(CiphertextBlob=blob)
    assert answer["Plaintext"] == plaintext[:length]
    assert answer["KeyId"].endswith(key_id)
    assert len(blob) <= 6144


def test_equal_plaintexts_give_different_blobs(kms: Any, key_id: str) -> None:
    """Nonces are fresh."""
    blobs = {kms.encrypt(KeyId=key_id, Plaintext=b"same")["CiphertextBlob"] for _ in range(20)}
    assert len(blobs) == 20


def test_ambiguous_contexts_differ(kms: Any, key_id: str) -> None:
    """{"a": "bc"} does not open what {"ab": "c"} sealed."""
    blob = kms.encrypt(KeyId=key_id, Plaintext=b"x", EncryptionContext={"a": "bc"})["CiphertextBlob"]
    for context in ({"ab": "c"}, {"a": "b"}, {}, {"a": "bc", "d": ""}, {"A": "bc"}):
        assert code_of(kms.decrypt, CiphertextBlob=blob, EncryptionContext=context) == "InvalidCiphertextException"
    assert kms.decrypt(CiphertextBlob=blob, EncryptionContext={"a": "bc"})["Plaintext"] == b"x"


def test_every_changed_byte_is_noticed(kms: Any, key_id: str) -> None:
    """Header, nonce, ciphertext and tag are all authenticated; a changed blob is never opened."""
    blob = kms.encrypt(KeyId=key_id, Plaintext=b"hello", EncryptionContext={"k": "v"})["CiphertextBlob"]
    for position in range(len(blob)):
        changed = blob[:position] + bytes([blob[position] ^ 1]) + blob[position + 1 :]
        answer = code_of(kms.decrypt, CiphertextBlob=changed, EncryptionContext={"k": "v"})
        # Within the key id the blob names a key that does not exist; everywhere else it is simply not ours.
        expected = "AccessDeniedException" if 2 <= position < 18 else "InvalidCiphertextException"
        assert answer == expected, position


def test_decrypt_with_another_key_named_is_refused(kms: Any, key_id: str) -> None:
    """`Decrypt.KeyId` is what clients rely on: a blob of another key is IncorrectKeyException."""
    other = kms.create_key()["KeyMetadata"]["KeyId"]
    blob = kms.encrypt(KeyId=key_id, Plaintext=b"x")["CiphertextBlob"]
    assert code_of(kms.decrypt, CiphertextBlob=blob, KeyId=other) == "IncorrectKeyException"
    assert kms.decrypt(CiphertextBlob=blob, KeyId=key_id)["Plaintext"] == b"x"


def test_re_encrypt_moves_to_another_key_and_context(kms: Any, key_id: str) -> None:
    """The new blob opens under the destination only; the plaintext does not leave."""
    other = kms.create_key()["KeyMetadata"]["KeyId"]
    blob = kms.encrypt(KeyId=key_id, Plaintext=b"move me", EncryptionContext={"from": "1"})["CiphertextBlob"]
    answer = kms.re_encrypt(
        CiphertextBlob=blob,
        SourceEncryptionContext={"from": "1"},
        DestinationKeyId=other,
        DestinationEncryptionContext={"to": "2"},
    )
    assert "Plaintext" not in answer
    assert answer["SourceKeyId"].endswith(key_id)
    assert answer["KeyId"].endswith(other)
    opened = kms.decrypt(CiphertextBlob=answer["CiphertextBlob"], EncryptionContext={"to": "2"}, KeyId=other)
    assert opened["Plaintext"] == b"move me"


@pytest.mark.parametrize(("members", "length"), [({"KeySpec": "AES_128"}, 16), ({"NumberOfBytes": 64}, 64)])
def test_data_keys(kms: Any, key_id: str, members: dict[str, Any], length: int) -> None:
    """The blob of a data key opens to the key that was given in the clear."""
    made = kms.generate_data_key(KeyId=key_id, EncryptionContext={"a": "b"}, **members)
    assert len(made["Plaintext"]) == length
    opened = kms.decrypt(CiphertextBlob=made["CiphertextBlob"], EncryptionContext={"a": "b"})
    assert opened["Plaintext"] == made["Plaintext"]
    sealed = kms.generate_data_key_without_plaintext(KeyId=key_id, **members)
    assert "Plaintext" not in sealed
    assert len(kms.decrypt(CiphertextBlob=sealed["CiphertextBlob"])["Plaintext"]) == length


def test_dry_run_does_nothing(kms: Any, key_id: str) -> None:
    """DryRun says that the call would work, and gives nothing."""
    assert code_of(kms.encrypt, KeyId=key_id, Plaintext=b"x", DryRun=True) == "DryRunOperationException"
    kms.disable_key(KeyId=key_id)
    assert code_of(kms.encrypt, KeyId=key_id, Plaintext=b"x", DryRun=True) == "DisabledException"


def test_no_plaintext_in_the_trail(kms: Any, key_id: str, harness: Harness) -> None:
    """The record shows key and context, and neither plaintext nor blob."""
    kms.encrypt(KeyId=key_id, Plaintext=b"SECRET-MARKER", EncryptionContext={"tenant": "t1"})
    record = next(record for record in reversed(harness.records()) if record["eventName"] == "Encrypt")
    assert record["requestParameters"]["encryptionContext"] == {"tenant": "t1"}
    assert record["resources"][0]["ARN"].endswith(key_id)
    text = "".join(path.read_text() for path in harness.config.audit_dir.glob("*.trail"))
    assert "SECRET-MARKER" not in text
    assert "U0VDUkVULU1BUktFUg" not in text
