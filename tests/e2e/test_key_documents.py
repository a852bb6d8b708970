"""`kmsd key attest`, `csr` and `self-sign`: what openssl and an auditor make of them."""

from __future__ import annotations

import base64
import subprocess
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.support.daemon import CUSTODY, Daemon

SPECS = ["RSA_2048", "ECC_NIST_P256", "ECC_NIST_P384", "ECC_NIST_P521", "ECC_NIST_EDWARDS25519"]
SUBJECT = "CN=Example Root,O=Example"


def signing_key(daemon: Daemon, spec: str) -> dict[str, Any]:
    """A signing key, and its public key."""
    kms = daemon.client()
    metadata = kms.create_key(KeySpec=spec, KeyUsage="SIGN_VERIFY")["KeyMetadata"]
    return {**metadata, "PublicKey": kms.get_public_key(KeyId=metadata["KeyId"])["PublicKey"]}


def openssl(folder: Path, *arguments: str, ok: bool = True) -> str:
    """What openssl prints."""
    done = subprocess.run(["openssl", *arguments], cwd=folder, capture_output=True, text=True, check=False)
    assert (done.returncode == 0) is ok, done.stderr
    return done.stdout


def public_of(document: x509.Certificate | x509.CertificateSigningRequest) -> bytes:
    """The public key in a document."""
    return document.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def test_an_attestation_verifies_with_openssl(daemon: Daemon, tmp_path: Path) -> None:
    """The statement names key, token and attributes; changed by one character it does not verify."""
    key = signing_key(daemon, "ECC_NIST_P256")
    printed = daemon.cli("key", "attest", key["Arn"]).stdout.decode()
    statement, _, signature = printed.rpartition("Signature: ")
    (tmp_path / "audit.pem").write_bytes(daemon.cli("audit", "public-key").stdout)
    (tmp_path / "statement").write_text(statement)
    (tmp_path / "signature").write_bytes(base64.b64decode(signature))
    verify = ("dgst", "-sha256", "-verify", "audit.pem", "-signature", "signature", "statement")
    assert openssl(tmp_path, *verify) == "Verified OK\n"
    first, *lines = statement.splitlines()
    assert first == "kmsd key attestation 1"
    told = dict(line.split(": ", 1) for line in lines)
    assert told["Key"] == key["Arn"]
    assert (told["KeySpec"], told["KeyUsage"]) == ("ECC_NIST_P256", "SIGN_VERIFY")
    assert base64.b64decode(told["PublicKey"]) == key["PublicKey"]
    assert (told["CKA_SENSITIVE"], told["CKA_EXTRACTABLE"]) == ("true", "false")
    # Wrapped material has been unwrapped. That it was generated in the token is the word of its row.
    assert {told[f"CKA_{name}"] for name in ("ALWAYS_SENSITIVE", "NEVER_EXTRACTABLE", "LOCAL")} == {
        "false" if "WrappedUnder" in told else "true"
    }
    assert ("WrappedUnder" in told) is (CUSTODY == "wrapped")
    assert told["Roles"] == "CKA_SIGN"
    (tmp_path / "statement").write_text(statement.replace("CKA_EXTRACTABLE: false", "CKA_EXTRACTABLE: true"))
    openssl(tmp_path, *verify, ok=False)


@pytest.mark.parametrize("spec", SPECS)
def test_requests_and_certificates(daemon: Daemon, tmp_path: Path, spec: str) -> None:
    """Both verify with openssl; they have the key's public half and the subject; the certificate is an authority's."""
    key = signing_key(daemon, spec)
    request = daemon.cli("key", "csr", key["KeyId"], "--subject", SUBJECT).stdout
    (tmp_path / "request.pem").write_bytes(request)
    openssl(tmp_path, "req", "-in", "request.pem", "-verify", "-noout")
    found = x509.load_pem_x509_csr(request)
    assert found.is_signature_valid
    assert public_of(found) == key["PublicKey"]
    assert found.subject.rfc4514_string() == SUBJECT
    made = daemon.cli("key", "self-sign", key["KeyId"], "--subject", SUBJECT, "--days", "30").stdout
    (tmp_path / "root.pem").write_bytes(made)
    assert openssl(tmp_path, "verify", "-CAfile", "root.pem", "-check_ss_sig", "root.pem") == "root.pem: OK\n"
    certificate = x509.load_pem_x509_certificate(made)
    assert public_of(certificate) == key["PublicKey"]
    assert certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert (certificate.not_valid_after_utc - certificate.not_valid_before_utc).days == 30


def test_the_trail_has_each(daemon: Daemon) -> None:
    """An intent and an outcome for each use of the key by the operator."""
    key = signing_key(daemon, "ECC_NIST_P256")
    for command in (("attest",), ("csr", "--subject", SUBJECT), ("self-sign", "--subject", SUBJECT)):
        daemon.cli("key", *command[:1], key["KeyId"], *command[1:])
    acts = [
        (one["eventName"], one["additionalEventData"]["phase"])
        for one in daemon.audit_records()
        if one["eventType"] == "KmsdAdministrativeEvent" and one["requestParameters"].get("keyId") == key["Arn"]
    ]
    names = ("AttestKey", "SignCertificateRequest", "SignCertificate")
    assert acts == [(name, phase) for name in names for phase in ("intent", "outcome")]


def test_what_is_refused(daemon: Daemon) -> None:
    """A key without public half, one that does not sign, a disabled one, a subject that is no name: and no document."""
    kms = daemon.client()
    symmetric = kms.create_key()["KeyMetadata"]["KeyId"]
    agreeing = kms.create_key(KeySpec="ECC_NIST_P256", KeyUsage="KEY_AGREEMENT")["KeyMetadata"]["KeyId"]
    disabled = signing_key(daemon, "ECC_NIST_P256")["KeyId"]
    kms.disable_key(KeyId=disabled)
    for command, complaint in (
        (("attest", symmetric), b"has no public key"),
        (("csr", agreeing, "--subject", SUBJECT), b"cannot sign: its key usage is KEY_AGREEMENT"),
        (("csr", disabled, "--subject", SUBJECT), b"is disabled"),
        (("csr", disabled, "--subject", "no name"), b"is not a name as RFC 4514 writes it"),
        (("self-sign", disabled, "--subject", SUBJECT, "--days", "0"), b"--days must be 1 or more"),
    ):
        done = daemon.cli("key", *command, check=False)
        assert complaint in done.stderr, done.stderr
        assert done.stdout == b""
