"""Blob algorithm 3, over the wire with boto3: the token makes 16-byte nonces and appends them to ciphertexts."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from kmsd.domain import ciphertext_blob as blobs
from kmsd.domain.material import Algorithm
from tests.support.appended_iv import appending_harness
from tests.support.clients import code_of
from tests.support.harness import Harness
from tests.support.key_import import external_key, parameters
from tests.support.shim import Shim

IV16 = Algorithm.AES_256_GCM_IV16
CONTEXT = {"purpose": "test"}


@pytest.fixture(scope="module", name="bent")
def _bent(tmp_path_factory: pytest.TempPathFactory, custody: str) -> Iterator[tuple[Harness, Shim]]:
    with appending_harness(tmp_path_factory.mktemp("harness"), custody=custody) as found:
        yield found


@pytest.fixture(scope="module", name="harness")
def _harness(bent: tuple[Harness, Shim]) -> Harness:
    return bent[0]


@pytest.fixture(name="kms")
def _kms(harness: Harness) -> Any:
    return harness.client()


@pytest.fixture(name="key_id")
def _key_id(kms: Any) -> str:
    return kms.create_key()["KeyMetadata"]["KeyId"]


@pytest.mark.parametrize("length", [1, 4, 31, 32, 4095, 4096])
def test_what_was_encrypted_decrypts(kms: Any, key_id: str, length: int) -> None:
    """The blob has algorithm 3 and 66 bytes more than the plaintext; nonces are fresh."""
    plaintext = (bytes(range(256)) * 16)[:length]
    answers = [kms.encrypt(KeyId=key_id, Plaintext=plaintext, EncryptionContext=CONTEXT) for _ in range(10)]
    sealed = [answer["CiphertextBlob"] for answer in answers]
    assert {(blob[:2], len(blob)) for blob in sealed} == {(b"\x01\x03", length + 66)}
    assert len({blob[34:50] for blob in sealed}) == 10
    answer = kms.decrypt(CiphertextBlob=sealed[0], EncryptionContext=CONTEXT)
    assert (answer["Plaintext"], answer["KeyId"].endswith(key_id)) == (plaintext, True)


def test_every_change_and_every_cut_is_refused(kms: Any, key_id: str) -> None:
    """A flipped bit anywhere, a blob that ends early or late, and another context: InvalidCiphertextException."""
    blob = kms.encrypt(KeyId=key_id, Plaintext=b"hello", EncryptionContext=CONTEXT)["CiphertextBlob"]
    for position in range(len(blob)):
        changed = blob[:position] + bytes([blob[position] ^ 1]) + blob[position + 1 :]
        answer = code_of(kms.decrypt, CiphertextBlob=changed, EncryptionContext=CONTEXT)
        # Within the key id the blob names a key that does not exist.
        expected = "AccessDeniedException" if 2 <= position < 18 else "InvalidCiphertextException"
        assert answer == expected, position
    for bad in (*(blob[:length] for length in range(1, len(blob))), blob + b"\0", blob[:34] + b"\0" + blob[34:]):
        assert code_of(kms.decrypt, CiphertextBlob=bad, EncryptionContext=CONTEXT) == "InvalidCiphertextException"
    assert code_of(kms.decrypt, CiphertextBlob=blob) == "InvalidCiphertextException"
    assert kms.decrypt(CiphertextBlob=blob, EncryptionContext=CONTEXT)["Plaintext"] == b"hello"


def test_re_encryption(kms: Any, key_id: str) -> None:
    """To another key and context, by the same algorithm."""
    other = kms.create_key()["KeyMetadata"]["KeyId"]
    blob = kms.encrypt(KeyId=key_id, Plaintext=b"move me", EncryptionContext=CONTEXT)["CiphertextBlob"]
    moved = kms.re_encrypt(
        CiphertextBlob=blob,
        SourceEncryptionContext=CONTEXT,
        DestinationKeyId=other,
        DestinationEncryptionContext={"to": "2"},
    )["CiphertextBlob"]
    assert blobs.parse(moved).algorithm is IV16
    assert kms.decrypt(CiphertextBlob=moved, EncryptionContext={"to": "2"}, KeyId=other)["Plaintext"] == b"move me"


def test_data_keys(kms: Any, key_id: str) -> None:
    """With and without plaintext, and pairs: what is wrapped decrypts."""
    whole = kms.generate_data_key(KeyId=key_id, KeySpec="AES_256", EncryptionContext=CONTEXT)
    assert blobs.parse(whole["CiphertextBlob"]).algorithm is IV16
    opened = kms.decrypt(CiphertextBlob=whole["CiphertextBlob"], EncryptionContext=CONTEXT)
    assert opened["Plaintext"] == whole["Plaintext"]
    bare = kms.generate_data_key_without_plaintext(KeyId=key_id, NumberOfBytes=64)
    assert len(kms.decrypt(CiphertextBlob=bare["CiphertextBlob"])["Plaintext"]) == 64
    pair = kms.generate_data_key_pair(KeyId=key_id, KeyPairSpec="ECC_NIST_P256")
    opened = kms.decrypt(CiphertextBlob=pair["PrivateKeyCiphertextBlob"])
    assert opened["Plaintext"] == pair["PrivateKeyPlaintext"]


def imported(kms: Any, material: bytes, key_id: str = "") -> str:
    """A key, new or named, whose material is this."""
    key_id = key_id or external_key(kms)
    kms.import_key_material(**parameters(kms, key_id, "RSAES_OAEP_SHA_1").members(material))
    return key_id


def test_imported_material(kms: Any) -> None:
    """It encrypts by the same algorithm; the material and the published format are enough to open the blob."""
    material = os.urandom(32)
    key_id = imported(kms, material)
    blob = kms.encrypt(KeyId=key_id, Plaintext=b"mine", EncryptionContext=CONTEXT)["CiphertextBlob"]
    assert kms.decrypt(CiphertextBlob=blob, EncryptionContext=CONTEXT)["Plaintext"] == b"mine"
    canonical = bytes.fromhex("0000000100000007") + b"purpose" + bytes.fromhex("00000004") + b"test"
    assert AESGCM(material).decrypt(blob[34:50], blob[50:], blob[:34] + canonical) == b"mine"


def restarted(bent: tuple[Harness, Shim], *, appends: int) -> Any:
    """A client of the daemon, which has found its token to append nonces of this length; 0: none."""
    harness, shim = bent
    harness.stop()
    shim.append_iv(appends)
    harness.start()
    return harness.client()


def test_keys_from_before(bent: tuple[Harness, Shim]) -> None:
    """A token that begins to make its own nonces opens all earlier blobs; a key encrypts again after its rotation."""
    kms = restarted(bent, appends=0)
    key_id = kms.create_key()["KeyMetadata"]["KeyId"]
    old = kms.encrypt(KeyId=key_id, Plaintext=b"old", EncryptionContext=CONTEXT)["CiphertextBlob"]
    assert blobs.parse(old).algorithm is Algorithm.XAES_256_GCM
    material = os.urandom(32)
    external = imported(kms, material)
    theirs = kms.encrypt(KeyId=external, Plaintext=b"theirs")["CiphertextBlob"]
    kms.delete_imported_key_material(KeyId=external)
    kms = restarted(bent, appends=16)
    assert kms.decrypt(CiphertextBlob=old, EncryptionContext=CONTEXT)["Plaintext"] == b"old"
    imported(kms, material, external)
    assert kms.decrypt(CiphertextBlob=theirs)["Plaintext"] == b"theirs"
    for key in (key_id, external):
        assert code_of(kms.encrypt, KeyId=key, Plaintext=b"new") == "UnsupportedOperationException"
    kms.rotate_key_on_demand(KeyId=key_id)
    moved = kms.re_encrypt(CiphertextBlob=old, SourceEncryptionContext=CONTEXT, DestinationKeyId=key_id)
    assert blobs.parse(moved["CiphertextBlob"]).algorithm is IV16
    kms = restarted(bent, appends=0)
    assert kms.decrypt(CiphertextBlob=moved["CiphertextBlob"])["Plaintext"] == b"old"
    again = kms.encrypt(KeyId=key_id, Plaintext=b"again")["CiphertextBlob"]
    assert blobs.parse(again).algorithm is IV16
    restarted(bent, appends=16)
