"""Imported keys against the vectors of Project Wycheproof: OAEP, HMAC, ECDH."""

from __future__ import annotations

import base64
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.support.clients import code_of
from tests.support.harness import Harness
from tests.support.key_import import external_key, parameters

VECTORS = Path(__file__).parents[2] / "golden" / "wycheproof" / "imports"
CURVES = {"P256": ec.SECP256R1(), "P384": ec.SECP384R1(), "P521": ec.SECP521R1()}
WRAPPED_BY = "RSA_AES_KEY_WRAP_SHA_1"


def vectors(name: str) -> dict[str, Any]:
    """The content of a file; its bytes are base64."""
    found: dict[str, Any] = json.loads((VECTORS / f"{name}.json").read_text())
    return found


def decoded(text: str) -> bytes:
    """Bytes of a vector."""
    return base64.b64decode(text, validate=True)


def imported(kms: Any, spec: str, usage: str, material: bytes) -> str:
    """A key with this material."""
    key_id = external_key(kms, spec, usage)
    kms.import_key_material(**parameters(kms, key_id, algorithm=WRAPPED_BY).members(material))
    return str(key_id)


@pytest.fixture(name="kms", scope="module")
def _kms(harness: Harness) -> Any:
    return harness.client()


def test_rsa_oaep(kms: Any) -> None:
    """Valid ciphertexts open to their message; each invalid one is InvalidCiphertextException."""
    given = vectors("rsa_oaep_2048_sha1_mgf1sha1")
    key_id = imported(kms, "RSA_2048", "ENCRYPT_DECRYPT", decoded(given["key"]))
    for number, ciphertext, message, result in given["tests"]:
        request = {
            "KeyId": key_id,
            "CiphertextBlob": decoded(ciphertext),
            "EncryptionAlgorithm": given["algorithm"],
        }
        if result == "valid":
            assert kms.decrypt(**request)["Plaintext"] == decoded(message), number
        else:
            assert code_of(kms.decrypt, **request) == "InvalidCiphertextException", number


@pytest.mark.parametrize("bits", [224, 256, 384, 512])
def test_hmac(kms: Any, bits: int) -> None:
    """Valid MACs are computed and verified; each invalid one is KMSInvalidMacException."""
    given = vectors(f"hmac_sha{bits}")
    for number, key, message, mac, result in given["tests"]:
        key_id = imported(kms, f"HMAC_{bits}", "GENERATE_VERIFY_MAC", decoded(key))
        request = {"KeyId": key_id, "Message": decoded(message), "MacAlgorithm": given["algorithm"]}
        assert (kms.generate_mac(**request)["Mac"] == decoded(mac)) is (result == "valid"), number
        code = code_of(kms.verify_mac, **request, Mac=decoded(mac))
        assert code == ("" if result == "valid" else "KMSInvalidMacException"), number


@pytest.mark.parametrize("bits", [256, 384, 521])
def test_ecdh(kms: Any, bits: int) -> None:
    """Valid public keys give the secret of the vector; no invalid one does."""
    given = vectors(f"ecdh_secp{bits}r1")
    by_key = defaultdict(list)
    for number, private, public, shared, result in given["tests"]:
        by_key[private].append((number, public, shared, result))
    for private, tests in by_key.items():
        key = ec.derive_private_key(int(private, 16), CURVES[given["curve"]])
        material = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
        key_id = imported(kms, f"ECC_NIST_{given['curve']}", "KEY_AGREEMENT", material)
        for number, public, shared, result in tests:
            request = {"KeyId": key_id, "PublicKey": decoded(public), "KeyAgreementAlgorithm": "ECDH"}
            if result == "valid":
                assert kms.derive_shared_secret(**request)["SharedSecret"] == decoded(shared), number
            else:
                assert code_of(kms.derive_shared_secret, **request) == "ValidationException", number
