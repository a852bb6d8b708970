"""ML-DSA and ML-KEM over the API: a daemon whose further token has them, and the keys after a restart."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import mldsa, mlkem, rsa
from cryptography.hazmat.primitives.serialization import load_der_public_key

from tests.support.clients import code_of
from tests.support.daemon import Daemon
from tests.support.key_kinds import oaep
from tests.support.post_quantum import SPECS, post_quantum_daemon

ML_DSA = {
    "ML_DSA_44": (mldsa.MLDSA44PublicKey, 2420),
    "ML_DSA_65": (mldsa.MLDSA65PublicKey, 3309),
    "ML_DSA_87": (mldsa.MLDSA87PublicKey, 4627),
}
"""The class of the public key, and bytes of a signature (FIPS 204, table 2)."""
ML_KEM = {"ML_KEM_512": 768, "ML_KEM_768": 1088, "ML_KEM_1024": 1568}
"""Bytes of a ciphertext (FIPS 203, table 3)."""
PEERS = {"ML_KEM_768": mlkem.MLKEM768PublicKey, "ML_KEM_1024": mlkem.MLKEM1024PublicKey}
"""The specs that `cryptography` has."""
ALGORITHM = {"SigningAlgorithm": "ML_DSA_SHAKE_256"}
ML = {"EncapsulationAlgorithm": "ML_KEM"}


@pytest.fixture(name="pq", scope="module")
def _pq(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with post_quantum_daemon(tmp_path_factory.mktemp("pq"), workers=2) as daemon:
        yield daemon
        # Reads back every promised attribute of the objects in both tokens.
        daemon.cli("check")


@pytest.fixture(name="kms", scope="module")
def _kms(pq: Daemon) -> Any:
    return pq.client()


@pytest.fixture(name="keys", scope="module")
def _keys(kms: Any) -> dict[str, dict[str, Any]]:
    """The metadata of one key of each spec."""
    return {spec: kms.create_key(KeySpec=spec, KeyUsage=usage_of(spec))["KeyMetadata"] for spec in SPECS}


def usage_of(spec: str) -> str:
    """The only usage of a spec."""
    return "SIGN_VERIFY" if spec in ML_DSA else "ENCAPSULATE_DECAPSULATE"


def encapsulate(kms: Any, key_id: str) -> tuple[bytes, bytes]:
    """A secret and its ciphertext, both made by the daemon."""
    answer = kms.encapsulate(KeyId=key_id, **ML)
    assert answer["EncapsulationAlgorithm"] == "ML_KEM"
    return answer["SharedSecret"], answer["SharedSecretCiphertextBlob"]


def decapsulate(kms: Any, key_id: str, ciphertext: bytes) -> bytes:
    """The secret that the daemon takes from a ciphertext."""
    answer = kms.decapsulate(KeyId=key_id, SharedSecretCiphertextBlob=ciphertext, **ML)
    secret: bytes = answer["SharedSecret"]
    assert (len(secret), answer["EncapsulationAlgorithm"]) == (32, "ML_KEM")
    return secret


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_metadata(kms: Any, keys: dict[str, dict[str, Any]], spec: str) -> None:
    """CreateKey, DescribeKey and GetPublicKey name spec, usage and algorithm."""
    metadata, usage = keys[spec], usage_of(spec)
    assert kms.describe_key(KeyId=metadata["KeyId"])["KeyMetadata"] == metadata
    assert (metadata["KeySpec"], metadata["KeyUsage"], metadata["KeyState"]) == (spec, usage, "Enabled")
    algorithms = {k: v for k, v in metadata.items() if k.endswith("Algorithms")}
    assert algorithms == (
        {"SigningAlgorithms": ["ML_DSA_SHAKE_256"]} if spec in ML_DSA else {"EncapsulationAlgorithms": ["ML_KEM"]}
    )
    public = kms.get_public_key(KeyId=metadata["KeyId"])
    assert (public["KeyId"], public["KeySpec"], public["KeyUsage"]) == (metadata["Arn"], spec, usage)
    assert {k: v for k, v in public.items() if k.endswith("Algorithms")} == algorithms
    wrong = "ENCAPSULATE_DECAPSULATE" if spec in ML_DSA else "SIGN_VERIFY"
    assert code_of(kms.create_key, KeySpec=spec, KeyUsage=wrong) == "ValidationException"


@pytest.mark.parametrize("spec", ML_DSA)
def test_signatures(kms: Any, keys: dict[str, dict[str, Any]], spec: str) -> None:
    """Signatures verify here and elsewhere, up to the longest message; changed ones do not."""
    key, (public_class, length) = {"KeyId": keys[spec]["KeyId"], **ALGORITHM}, ML_DSA[spec]
    public = load_der_public_key(kms.get_public_key(KeyId=key["KeyId"])["PublicKey"])
    assert isinstance(public, public_class)
    for message in (b"m", bytes(range(256)) * 16):
        signature = kms.sign(**key, Message=message)["Signature"]
        assert len(signature) == length
        public.verify(signature, message)
        assert kms.verify(**key, Message=message, Signature=signature)["SignatureValid"] is True
        changed = signature[:-1] + bytes([signature[-1] ^ 1])
        for wrong in ({"Message": message[:-1] + b"?"}, {"Signature": changed}, {"Signature": signature[:-1]}):
            members = {"Message": message, "Signature": signature, **wrong}
            assert code_of(kms.verify, **key, **members) == "KMSInvalidSignatureException"
        with pytest.raises(InvalidSignature):
            public.verify(changed, message)
    assert code_of(kms.sign, **key, Message=bytes(4097)) == "ValidationException"


def test_keys_do_not_verify_for_each_other(kms: Any, keys: dict[str, dict[str, Any]]) -> None:
    """A signature by one spec is no signature by another, nor by another key of the spec."""
    signature = kms.sign(KeyId=keys["ML_DSA_65"]["KeyId"], Message=b"m", **ALGORITHM)["Signature"]
    other = kms.create_key(KeySpec="ML_DSA_65", KeyUsage="SIGN_VERIFY")["KeyMetadata"]["KeyId"]
    for key_id in (keys["ML_DSA_44"]["KeyId"], keys["ML_DSA_87"]["KeyId"], other):
        members = {"KeyId": key_id, "Message": b"m", "Signature": signature, **ALGORITHM}
        assert code_of(kms.verify, **members) == "KMSInvalidSignatureException"


@pytest.mark.parametrize(
    ("message_type", "error"), [("DIGEST", "ValidationException"), ("EXTERNAL_MU", "UnsupportedOperationException")]
)
def test_only_messages_are_signed(kms: Any, keys: dict[str, dict[str, Any]], message_type: str, error: str) -> None:
    """Neither a digest nor the representative of a message, as Sign and Verify take them elsewhere."""
    members = {"KeyId": keys["ML_DSA_65"]["KeyId"], "Message": bytes(64), "MessageType": message_type, **ALGORITHM}
    assert code_of(kms.sign, **members) == error
    assert code_of(kms.verify, **members, Signature=bytes(3309)) == error


@pytest.mark.parametrize("spec", ML_KEM)
def test_secrets(kms: Any, keys: dict[str, dict[str, Any]], spec: str) -> None:
    """A secret comes out of its ciphertext; a changed ciphertext gives another, always the same, and no error."""
    key_id = keys[spec]["KeyId"]
    secret, ciphertext = encapsulate(kms, key_id)
    assert (len(secret), len(ciphertext)) == (32, ML_KEM[spec])
    assert decapsulate(kms, key_id, ciphertext) == secret
    again, other_ciphertext = encapsulate(kms, key_id)
    assert again != secret
    assert other_ciphertext != ciphertext
    changed = ciphertext[:-1] + bytes([ciphertext[-1] ^ 1])
    rejected = decapsulate(kms, key_id, changed)
    assert rejected != secret
    assert decapsulate(kms, key_id, changed) == rejected


@pytest.mark.parametrize("spec", PEERS)
def test_secrets_with_another_library(kms: Any, keys: dict[str, dict[str, Any]], spec: str) -> None:
    """A secret that the library encapsulates comes out in the token: both sides implement FIPS 203."""
    key_id = keys[spec]["KeyId"]
    public = load_der_public_key(kms.get_public_key(KeyId=key_id)["PublicKey"])
    assert isinstance(public, PEERS[spec])
    secret, ciphertext = public.encapsulate()
    assert decapsulate(kms, key_id, ciphertext) == secret


@pytest.mark.parametrize("spec", ML_KEM)
def test_ciphertexts_of_a_wrong_length(kms: Any, keys: dict[str, dict[str, Any]], spec: str) -> None:
    """InvalidCiphertextException for every length but the spec's; the key works on."""
    key_id = keys[spec]["KeyId"]
    lengths = {1, 32, ML_KEM[spec] - 1, ML_KEM[spec] + 1, *ML_KEM.values()} - {ML_KEM[spec]}
    for length in sorted(lengths):
        members = {"KeyId": key_id, "SharedSecretCiphertextBlob": bytes(length), **ML}
        assert code_of(kms.decapsulate, **members) == "InvalidCiphertextException"
    assert code_of(kms.decapsulate, KeyId=key_id, SharedSecretCiphertextBlob=b"", **ML) == "ValidationException"
    secret, ciphertext = encapsulate(kms, key_id)
    assert decapsulate(kms, key_id, ciphertext) == secret


def test_usages_stay_apart(kms: Any, keys: dict[str, dict[str, Any]]) -> None:
    """A signing key encapsulates nothing, and a key for encapsulation signs nothing."""
    signs, encapsulates = keys["ML_DSA_65"]["KeyId"], keys["ML_KEM_768"]["KeyId"]
    assert code_of(kms.encapsulate, KeyId=signs, **ML) == "InvalidKeyUsageException"
    blob = {"SharedSecretCiphertextBlob": bytes(1088)}
    assert code_of(kms.decapsulate, KeyId=signs, **blob, **ML) == "InvalidKeyUsageException"
    assert code_of(kms.sign, KeyId=encapsulates, Message=b"m", **ALGORITHM) == "InvalidKeyUsageException"


def test_dry_runs(kms: Any, keys: dict[str, dict[str, Any]]) -> None:
    """Every check is made, and nothing is computed."""
    key_id = keys["ML_KEM_768"]["KeyId"]
    assert code_of(kms.encapsulate, KeyId=key_id, DryRun=True, **ML) == "DryRunOperationException"
    blob = {"SharedSecretCiphertextBlob": bytes(1088)}
    assert code_of(kms.decapsulate, KeyId=key_id, DryRun=True, **blob, **ML) == "DryRunOperationException"


def test_no_secret_is_recorded(pq: Daemon, kms: Any, keys: dict[str, dict[str, Any]]) -> None:
    """The audit trail names the calls and the key; the shared secret is in none of the daemon's files."""
    secret, ciphertext = encapsulate(kms, keys["ML_KEM_768"]["KeyId"])
    assert decapsulate(kms, keys["ML_KEM_768"]["KeyId"], ciphertext) == secret
    assert {"Encapsulate", "Decapsulate"} <= {record.get("eventName") for record in pq.audit_records()}
    forms = (secret, base64.b64encode(secret), secret.hex().encode())
    for path in [pq.folder / "serve.log", *pq.data.rglob("*")]:
        if path.is_file():
            content = path.read_bytes()
            assert not [form for form in forms if form in content], path


def test_keys_survive_a_restart(pq: Daemon, keys: dict[str, dict[str, Any]]) -> None:
    """What was signed and encapsulated before verifies and opens afterwards; deletion works as for any key."""
    kms = pq.client()
    sign = {spec: {"KeyId": keys[spec]["KeyId"], **ALGORITHM} for spec in ML_DSA}
    public = {spec: kms.get_public_key(KeyId=keys[spec]["KeyId"])["PublicKey"] for spec in SPECS}
    signatures = {spec: kms.sign(**members, Message=b"m")["Signature"] for spec, members in sign.items()}
    sealed = {spec: encapsulate(kms, keys[spec]["KeyId"]) for spec in ML_KEM}
    assert pq.stop() == 0
    pq.start()
    again = pq.client()
    assert {spec: again.get_public_key(KeyId=keys[spec]["KeyId"])["PublicKey"] for spec in SPECS} == public
    for spec, members in sign.items():
        assert again.verify(**members, Message=b"m", Signature=signatures[spec])["SignatureValid"] is True
        assert again.sign(**members, Message=b"m")["Signature"]
    for spec, (secret, ciphertext) in sealed.items():
        assert decapsulate(again, keys[spec]["KeyId"], ciphertext) == secret
    deleted = again.create_key(KeySpec="ML_KEM_768", KeyUsage="ENCAPSULATE_DECAPSULATE")["KeyMetadata"]["KeyId"]
    again.schedule_key_deletion(KeyId=deleted, PendingWindowInDays=7)
    assert code_of(again.encapsulate, KeyId=deleted, **ML) == "KMSInvalidStateException"


def test_the_same_token_unwraps_imports(tmp_path: Path) -> None:
    """One NSS, and one database of it, is import token and further token of a daemon, also after a restart."""
    padding = oaep("RSAES_OAEP_SHA_256")
    with post_quantum_daemon(tmp_path, imports=True) as daemon:
        kms = daemon.client()
        signs = {"KeyId": kms.create_key(KeySpec="ML_DSA_65", KeyUsage="SIGN_VERIFY")["KeyMetadata"]["KeyId"]}
        imported = {"KeyId": kms.create_key(Origin="EXTERNAL")["KeyMetadata"]["KeyId"]}
        wrapping = {"WrappingAlgorithm": "RSAES_OAEP_SHA_256", "WrappingKeySpec": "RSA_2048"}
        given = kms.get_parameters_for_import(**imported, **wrapping)
        public = load_der_public_key(given["PublicKey"])
        assert isinstance(public, rsa.RSAPublicKey)
        kms.import_key_material(
            **imported,
            ImportToken=given["ImportToken"],
            EncryptedKeyMaterial=public.encrypt(bytes(range(32)), padding),
            ExpirationModel="KEY_MATERIAL_DOES_NOT_EXPIRE",
        )
        blob = kms.encrypt(**imported, Plaintext=b"x")["CiphertextBlob"]
        signature = kms.sign(**signs, Message=b"m", **ALGORITHM)["Signature"]
        assert daemon.stop() == 0
        daemon.start()
        kms = daemon.client()
        assert kms.decrypt(CiphertextBlob=blob)["Plaintext"] == b"x"
        assert kms.verify(**signs, Message=b"m", Signature=signature, **ALGORITHM)["SignatureValid"] is True
        assert kms.sign(**signs, Message=b"n", **ALGORITHM)["Signature"]
        daemon.cli("check")
