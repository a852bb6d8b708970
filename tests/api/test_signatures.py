"""Sign and Verify: every algorithm against an independent library, and what is refused."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, utils
from cryptography.hazmat.primitives.serialization import load_der_public_key

from tests.support.clients import code_of
from tests.support.harness import Harness

HASHES = {"256": hashes.SHA256(), "384": hashes.SHA384(), "512": hashes.SHA512()}
RSA = [f"RSASSA_{scheme}_SHA_{bits}" for scheme in ("PKCS1_V1_5", "PSS") for bits in HASHES]
ALGORITHMS = [
    *(("RSA_2048", name) for name in RSA),
    *(("ECC_NIST_P256", "ECDSA_SHA_256"), ("ECC_SECG_P256K1", "ECDSA_SHA_256")),
    *(("ECC_NIST_P384", "ECDSA_SHA_384"), ("ECC_NIST_P521", "ECDSA_SHA_512")),
    ("ECC_NIST_EDWARDS25519", "ED25519_SHA_512"),
]
MESSAGES = [b"x", b"a message", bytes(range(256)) * 16]


class Signer:
    """A signing key, its public key read once, and both sides of each algorithm."""

    def __init__(self, kms: Any, spec: str) -> None:
        self.kms = kms
        self.key_id = kms.create_key(KeySpec=spec, KeyUsage="SIGN_VERIFY")["KeyMetadata"]["KeyId"]
        self.public = load_der_public_key(kms.get_public_key(KeyId=self.key_id)["PublicKey"])

    def sign(self, algorithm: str, message: bytes, message_type: str = "RAW") -> bytes:
        """Sign by the daemon."""
        answer = self.kms.sign(KeyId=self.key_id, Message=message, MessageType=message_type, SigningAlgorithm=algorithm)
        assert answer["SigningAlgorithm"] == algorithm
        assert answer["KeyId"].endswith(self.key_id)
        signature: bytes = answer["Signature"]
        return signature

    def verify(self, algorithm: str, message: bytes, signature: bytes, message_type: str = "RAW") -> Any:
        """Verify by the daemon."""
        return self.kms.verify(
            KeyId=self.key_id,
            Message=message,
            Signature=signature,
            MessageType=message_type,
            SigningAlgorithm=algorithm,
        )

    def verify_outside(self, algorithm: str, digest: bytes, message: bytes, signature: bytes) -> None:
        """Verify by the library. Raises InvalidSignature."""
        function = HASHES[algorithm[-3:]]
        match self.public:
            case rsa.RSAPublicKey():
                pss = padding.PSS(padding.MGF1(function), function.digest_size)
                scheme = pss if "PSS" in algorithm else padding.PKCS1v15()
                self.public.verify(signature, digest, scheme, utils.Prehashed(function))
            case ec.EllipticCurvePublicKey():
                self.public.verify(signature, digest, ec.ECDSA(utils.Prehashed(function)))
            case ed25519.Ed25519PublicKey():
                self.public.verify(signature, message)


@pytest.fixture(name="kms", scope="module")
def _kms(harness: Harness) -> Any:
    return harness.client()


@pytest.fixture(name="signers", scope="module")
def _signers(kms: Any) -> dict[str, Signer]:
    return {spec: Signer(kms, spec) for spec in dict(ALGORITHMS)}


def digest_of(algorithm: str, message: bytes) -> bytes:
    """Return the digest that the algorithm signs."""
    return hashlib.new(f"sha{algorithm[-3:]}", message).digest()


@pytest.mark.parametrize(("spec", "algorithm"), ALGORITHMS)
def test_signatures_verify_elsewhere(signers: dict[str, Signer], spec: str, algorithm: str) -> None:
    """Messages of 1 to 4096 bytes: the signature is that of the algorithm, by the public key alone."""
    signer = signers[spec]
    for message in MESSAGES:
        signature = signer.sign(algorithm, message)
        signer.verify_outside(algorithm, digest_of(algorithm, message), message, signature)
        assert signer.verify(algorithm, message, signature)["SignatureValid"] is True


@pytest.mark.parametrize(("spec", "algorithm"), [row for row in ALGORITHMS if "ED25519" not in row[1]])
def test_a_digest_is_signed_as_its_message(signers: dict[str, Signer], spec: str, algorithm: str) -> None:
    """RAW and DIGEST are two ways to the same signature, in both directions."""
    signer, message = signers[spec], b"a message"
    digest = digest_of(algorithm, message)
    of_digest = signer.sign(algorithm, digest, "DIGEST")
    signer.verify_outside(algorithm, digest, message, of_digest)
    assert signer.verify(algorithm, message, of_digest)["SignatureValid"]
    of_message = signer.sign(algorithm, message)
    assert signer.verify(algorithm, digest, of_message, "DIGEST")["SignatureValid"]


@pytest.mark.parametrize(("spec", "algorithm"), ALGORITHMS)
def test_a_wrong_signature_is_an_error(signers: dict[str, Signer], spec: str, algorithm: str) -> None:
    """KMSInvalidSignatureException for another message, for changed bytes, and for bytes of any length."""
    signer, other = signers[spec], bytes(1)
    signature = signer.sign(algorithm, b"a message")
    wrong = [signature[:-1] + bytes([signature[-1] ^ 1]), signature[:-1], signature + b"\0", other, bytes(6144)]
    for candidate in wrong:
        assert code_of(signer.verify, algorithm, b"a message", candidate) == "KMSInvalidSignatureException"
    assert code_of(signer.verify, algorithm, b"another message", signature) == "KMSInvalidSignatureException"


@pytest.mark.parametrize(("spec", "algorithm"), [row for row in ALGORITHMS if "ED25519" not in row[1]])
def test_a_digest_has_the_length_of_the_hash(signers: dict[str, Signer], spec: str, algorithm: str) -> None:
    """Any other length is a ValidationException, for Sign and Verify."""
    signer = signers[spec]
    for length in (1, len(digest_of(algorithm, b"")) - 1, len(digest_of(algorithm, b"")) + 1, 4096):
        assert code_of(signer.sign, algorithm, bytes(length), "DIGEST") == "ValidationException"
        assert code_of(signer.verify, algorithm, bytes(length), b"x", "DIGEST") == "ValidationException"


def test_types_of_message_that_an_algorithm_does_not_take(signers: dict[str, Signer]) -> None:
    """Ed25519 signs no digests, and nothing takes a message representative of ML-DSA."""
    signer = signers["ECC_NIST_EDWARDS25519"]
    assert code_of(signer.sign, "ED25519_SHA_512", bytes(64), "DIGEST") == "ValidationException"
    assert code_of(signer.sign, "ED25519_PH_SHA_512", bytes(64), "DIGEST") == "UnsupportedOperationException"
    assert code_of(signer.sign, "ED25519_SHA_512", bytes(64), "EXTERNAL_MU") == "UnsupportedOperationException"


def test_messages_are_bounded(signers: dict[str, Signer]) -> None:
    """1 to 4096 bytes; the error does not quote the message."""
    signer = signers["ECC_NIST_P256"]
    with pytest.raises(signer.kms.exceptions.ClientError, match="constraint") as refused:
        signer.sign("ECDSA_SHA_256", b"secret" * 1000)
    assert refused.value.response["Error"]["Code"] == "ValidationException"
    assert "secret" not in str(refused.value)


def test_a_dry_run_signs_nothing(kms: Any, signers: dict[str, Signer]) -> None:
    """DryRun answers DryRunOperationException instead of a signature."""
    key_id = signers["ECC_NIST_P256"].key_id
    dry = {"KeyId": key_id, "Message": b"x", "SigningAlgorithm": "ECDSA_SHA_256", "DryRun": True}
    assert code_of(kms.sign, **dry) == "DryRunOperationException"
    assert code_of(kms.verify, **dry, Signature=kms.sign(**{**dry, "DryRun": False})["Signature"]) == (
        "DryRunOperationException"
    )


def test_the_record_shows_neither_message_nor_signature(harness: Harness, signers: dict[str, Signer]) -> None:
    """The audit record of Sign has key, algorithm and type of message."""
    signature = signers["ECC_NIST_P256"].sign("ECDSA_SHA_256", b"confidential message")
    signers["ECC_NIST_P256"].verify("ECDSA_SHA_256", b"confidential message", signature)
    records = harness.records()
    sign, verify = ([one for one in records if one["eventName"] == name][-1] for name in ("Sign", "Verify"))
    for record in (sign, verify):
        assert record["requestParameters"] == {
            "keyId": signers["ECC_NIST_P256"].key_id,
            "signingAlgorithm": "ECDSA_SHA_256",
            "messageType": "RAW",
        }
        assert record["responseElements"] is None
        assert record["readOnly"] is True
