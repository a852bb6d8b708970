"""Each operation with each kind of key, each algorithm and each state: the rules decide, and nothing is a 5xx."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
from botocore.exceptions import ClientError

from kmsd.domain.key_spec import (
    ALGORITHMS,
    EncapsulationAlgorithm,
    EncryptionAlgorithm,
    KeyAgreementAlgorithm,
    KeySpec,
    KeyUsage,
    MacAlgorithm,
    SigningAlgorithm,
)
from tests.support.harness import Harness

Members = dict[str, Any]
OFFERED = [
    ("SYMMETRIC_DEFAULT", "ENCRYPT_DECRYPT"),
    *(("RSA_2048", usage) for usage in ("ENCRYPT_DECRYPT", "SIGN_VERIFY")),
    *((f"ECC_NIST_{curve}", usage) for curve in ("P256", "P384", "P521") for usage in ("SIGN_VERIFY", "KEY_AGREEMENT")),
    *((spec, "SIGN_VERIFY") for spec in ("ECC_SECG_P256K1", "ECC_NIST_EDWARDS25519")),
    *((f"HMAC_{bits}", "GENERATE_VERIFY_MAC") for bits in (224, 256, 384, 512)),
]
"""Kinds that SoftHSM 2.6.1 offers. RSA keys of other lengths have the same algorithms."""
NOT_IN_TOKEN = {"RSAES_OAEP_SHA_256", "ED25519_PH_SHA_512"}
STATES = {"Enabled": "", "Disabled": "DisabledException", "PendingDeletion": "KMSInvalidStateException"}
SIGNED = {"Message": b"x", "Signature": b"x"}


@dataclass(frozen=True)
class Probe:
    """A request, without key and algorithm, and what decides about its answer."""

    usage: KeyUsage | None
    """None: any asymmetric key."""
    members: Members
    algorithm: str = ""
    """The member that names the algorithm."""
    values: tuple[str, ...] = ("",)
    then: str = ""
    """The answer if nothing is refused before: empty if it works."""
    symmetric: bool = False


def enumerated(enumeration: type) -> tuple[str, ...]:
    """Every value of an enumeration of the API."""
    return tuple(str(value) for value in enumeration)  # type: ignore[attr-defined] # a StrEnum


_E, _S, _M = KeyUsage.ENCRYPT_DECRYPT, KeyUsage.SIGN_VERIFY, KeyUsage.GENERATE_VERIFY_MAC
_ENCRYPTION, _MACS = ("", *enumerated(EncryptionAlgorithm)), enumerated(MacAlgorithm)
PROBES = {
    "encrypt": Probe(_E, {"Plaintext": b"x"}, "EncryptionAlgorithm", _ENCRYPTION),
    "decrypt": Probe(_E, {}, "EncryptionAlgorithm", _ENCRYPTION, "InvalidCiphertextException"),
    "sign": Probe(_S, {"Message": b"x"}, "SigningAlgorithm", enumerated(SigningAlgorithm)),
    "verify": Probe(_S, SIGNED, "SigningAlgorithm", enumerated(SigningAlgorithm), "KMSInvalidSignatureException"),
    "generate_mac": Probe(_M, {"Message": b"x"}, "MacAlgorithm", _MACS),
    "verify_mac": Probe(_M, {"Message": b"x", "Mac": b"x"}, "MacAlgorithm", _MACS, "KMSInvalidMacException"),
    "derive_shared_secret": Probe(
        KeyUsage.KEY_AGREEMENT,
        {"PublicKey": b"x"},
        "KeyAgreementAlgorithm",
        enumerated(KeyAgreementAlgorithm),
        "ValidationException",
    ),
    "encapsulate": Probe(
        KeyUsage.ENCAPSULATE_DECAPSULATE, {}, "EncapsulationAlgorithm", enumerated(EncapsulationAlgorithm)
    ),
    "decapsulate": Probe(
        KeyUsage.ENCAPSULATE_DECAPSULATE,
        {"SharedSecretCiphertextBlob": b"x"},
        "EncapsulationAlgorithm",
        enumerated(EncapsulationAlgorithm),
    ),
    "get_public_key": Probe(None, {}),
    "generate_data_key": Probe(_E, {"KeySpec": "AES_256"}, symmetric=True),
    "generate_data_key_without_plaintext": Probe(_E, {"KeySpec": "AES_256"}, symmetric=True),
    "generate_data_key_pair": Probe(_E, {"KeyPairSpec": "ECC_NIST_P256"}, symmetric=True),
    "generate_data_key_pair_without_plaintext": Probe(_E, {"KeyPairSpec": "ECC_NIST_P256"}, symmetric=True),
}


def expected(spec: str, usage: str, state: str, probe: Probe, algorithm: str) -> str:
    """The answer by the rules: state, then usage, then kind of key, then algorithm, then token."""
    if STATES[state]:
        return STATES[state]
    if probe.usage is None:
        return "" if KeySpec(spec).is_asymmetric else "UnsupportedOperationException"
    if probe.usage != usage or (probe.symmetric and spec != "SYMMETRIC_DEFAULT"):
        return "InvalidKeyUsageException"
    named = algorithm or "SYMMETRIC_DEFAULT"
    if probe.algorithm and named not in ALGORITHMS[KeySpec(spec)][KeyUsage(usage)]:
        return "InvalidKeyUsageException"
    return "UnsupportedOperationException" if named in NOT_IN_TOKEN else probe.then


@pytest.fixture(name="kms", scope="module")
def _kms(harness: Harness) -> Any:
    return harness.client()


def answers(kms: Any, key_id: str, blob: bytes) -> Iterator[tuple[str, Probe, str, Callable[[], Any]]]:
    """Every request of `PROBES` with every algorithm, not sent yet."""
    for operation, probe in PROBES.items():
        for algorithm in probe.values:
            members = {"KeyId": key_id, **probe.members}
            if algorithm:
                members[probe.algorithm] = algorithm
            if operation == "decrypt":
                # A blob of another key where the algorithm is that of blobs, else bytes of the modulus's length.
                members["CiphertextBlob"] = blob if algorithm in {"", "SYMMETRIC_DEFAULT"} else bytes(256)
            yield operation, probe, algorithm, partial(getattr(kms, operation), **members)


@pytest.mark.parametrize(("spec", "usage"), OFFERED)
def test_every_request_gets_the_answer_of_the_rules(kms: Any, spec: str, usage: str) -> None:
    """In each state; the key is the same afterwards."""
    metadata = kms.create_key(KeySpec=spec, KeyUsage=usage)["KeyMetadata"]
    key = {"KeyId": metadata["KeyId"]}
    other = kms.create_key()["KeyMetadata"]["KeyId"]
    blob = kms.encrypt(KeyId=other, Plaintext=b"x")["CiphertextBlob"]
    wrong = []
    for state in STATES:
        if state == "Disabled":
            kms.disable_key(**key)
        if state == "PendingDeletion":
            kms.schedule_key_deletion(**key, PendingWindowInDays=7)
        before = kms.describe_key(**key)["KeyMetadata"]
        for operation, probe, algorithm, send in answers(kms, metadata["KeyId"], blob):
            want = expected(spec, usage, state, probe, algorithm)
            if operation == "decrypt" and not want.replace("InvalidCiphertextException", ""):
                # A blob of another key is named as such.
                want = "IncorrectKeyException" if spec == "SYMMETRIC_DEFAULT" else want
            got, status = "", 200
            try:
                send()
            except ClientError as error:
                got = error.response["Error"]["Code"]
                status = error.response["ResponseMetadata"]["HTTPStatusCode"]
            if got != want or status >= 500:
                wrong.append((state, operation, algorithm, want, got))
        assert kms.describe_key(**key)["KeyMetadata"] == before
    assert wrong == []
