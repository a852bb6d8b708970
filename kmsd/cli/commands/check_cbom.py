"""`kmsd check --cbom`: the algorithms and kinds of keys that this installation uses, as a CycloneDX 1.6 CBOM."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any
from uuid import uuid4

import msgspec

from kmsd import __version__
from kmsd.config.sections import Config
from kmsd.database import open_store
from kmsd.domain.key_spec import HMAC_BITS, RSA_BITS, KeySpec, KeyUsage
from kmsd.domain.material import Algorithm
from kmsd.ports import KindOfMaterial
from kmsd.wire.web_identity.verification import ALGORITHMS

HARDWARE, SOFTWARE = "hardware", "software-plain-ram"


class CryptographicAlgorithm(msgspec.Struct, frozen=True):
    """An algorithm, with CycloneDX's words for what it is."""

    name: str
    primitive: str
    functions: tuple[str, ...]
    parameters: str = ""
    """Parameter set, such as a length of keys in bits."""
    curve: str = ""
    mode: str = ""
    bits: int = 0
    """Classical security level; 0: not stated."""
    category: int = 0
    """Security category of NIST's post-quantum standardisation, 1 to 6; 0: none, a quantum computer breaks it."""

    def component(self, environment: str, purposes: Mapping[str, int | str]) -> dict[str, Any]:
        """Return the component; `purposes` says what it is used for, or by how many key materials."""
        properties: dict[str, Any] = {
            "primitive": self.primitive,
            "parameterSetIdentifier": self.parameters,
            "curve": self.curve,
            "mode": self.mode,
            "executionEnvironment": environment,
            "cryptoFunctions": list(self.functions),
            "classicalSecurityLevel": self.bits,
            "nistQuantumSecurityLevel": self.category,
        }
        kept = {name: value for name, value in properties.items() if value or name == "nistQuantumSecurityLevel"}
        return {
            "type": "cryptographic-asset",
            "bom-ref": f"{self.name} in {environment}",
            "name": self.name,
            "cryptoProperties": {"assetType": "algorithm", "algorithmProperties": kept},
            "properties": [{"name": f"kmsd:{name}", "value": str(value)} for name, value in purposes.items()],
        }


_SYMMETRIC = {
    Algorithm.XAES_256_GCM: CryptographicAlgorithm(
        "XAES-256-GCM", "ae", ("keygen", "keyderive", "encrypt", "decrypt"), "256", "", "gcm", 256, 5
    ),
    Algorithm.AES_256_GCM: CryptographicAlgorithm(
        "AES-256-GCM", "ae", ("keygen", "encrypt", "decrypt"), "256", "", "gcm", 256, 5
    ),
    Algorithm.AES_256_GCM_IV16: CryptographicAlgorithm(
        "AES-256-GCM, 16-byte nonce", "ae", ("keygen", "encrypt", "decrypt"), "256", "", "gcm", 256, 5
    ),
}
_RSA_LEVEL = {2048: 112, 3072: 128, 4096: 152}
"""NIST SP 800-57 part 1, table 2; RFC 3766 for 4096."""
_CURVES = {
    KeySpec.ECC_NIST_P256: ("P-256", "nist/P-256", 128),
    KeySpec.ECC_NIST_P384: ("P-384", "nist/P-384", 192),
    KeySpec.ECC_NIST_P521: ("P-521", "nist/P-521", 256),
    KeySpec.ECC_SECG_P256K1: ("secp256k1", "secg/secp256k1", 128),
}
_LATTICES = {
    KeySpec.ML_DSA_44: ("44", 2),
    KeySpec.ML_DSA_65: ("65", 3),
    KeySpec.ML_DSA_87: ("87", 5),
    KeySpec.ML_KEM_512: ("512", 1),
    KeySpec.ML_KEM_768: ("768", 3),
    KeySpec.ML_KEM_1024: ("1024", 5),
}
_SIGNS, _AGREES = ("keygen", "sign", "verify"), ("keygen", "keyderive")


def algorithm_of(kind: KindOfMaterial) -> CryptographicAlgorithm:
    """Return the algorithm of a kind of key material."""
    spec, usage = kind.spec, kind.usage
    if kind.algorithm is not None:
        return _SYMMETRIC[kind.algorithm]
    if spec in RSA_BITS:
        bits = RSA_BITS[spec]
        if usage is KeyUsage.SIGN_VERIFY:
            return CryptographicAlgorithm(
                f"RSA-{bits} signature", "signature", _SIGNS, str(bits), bits=_RSA_LEVEL[bits]
            )
        functions = ("keygen", "encrypt", "decrypt")
        return CryptographicAlgorithm(f"RSAES-OAEP-{bits}", "pke", functions, str(bits), bits=_RSA_LEVEL[bits])
    if spec in HMAC_BITS:
        bits = HMAC_BITS[spec]
        return CryptographicAlgorithm(
            f"HMAC-SHA-{bits}", "mac", ("keygen", "tag", "verify"), str(bits), "", "", bits, 5
        )
    if spec in _CURVES:
        name, curve, bits = _CURVES[spec]
        if usage is KeyUsage.KEY_AGREEMENT:
            return CryptographicAlgorithm(f"ECDH {name}", "key-agree", _AGREES, name, curve, bits=bits)
        return CryptographicAlgorithm(f"ECDSA {name}", "signature", _SIGNS, name, curve, bits=bits)
    if spec in _LATTICES:
        size, category = _LATTICES[spec]
        if usage is KeyUsage.SIGN_VERIFY:
            return CryptographicAlgorithm(f"ML-DSA-{size}", "signature", _SIGNS, size, category=category)
        functions = ("keygen", "encapsulate", "decapsulate")
        return CryptographicAlgorithm(f"ML-KEM-{size}", "kem", functions, size, category=category)
    return CryptographicAlgorithm("Ed25519", "signature", _SIGNS, "25519", "other/Ed25519", bits=128)


def _own(config: Config) -> Iterator[tuple[CryptographicAlgorithm, str, str]]:
    """Yield what kmsd itself uses: algorithm, environment, purpose."""
    curve, sha = ("P-256", "nist/P-256"), ("digest",)
    yield CryptographicAlgorithm("ECDSA P-256", "signature", _SIGNS, *curve, bits=128), HARDWARE, "audit trail, backups"
    gcm = CryptographicAlgorithm("AES-256-GCM", "ae", ("encrypt", "decrypt"), "256", "", "gcm", 256, 5)
    yield gcm, HARDWARE, "access keys and session tokens at rest"
    yield gcm, SOFTWARE, "log events, under data keys"
    hmac = CryptographicAlgorithm("HMAC-SHA-256", "mac", ("tag", "verify"), "256", "", "", 256, 5)
    yield hmac, SOFTWARE, "Signature Version 4, session tokens"
    yield CryptographicAlgorithm("SHA-256", "hash", sha, "256", "", "", 128, 2), SOFTWARE, "chain of the audit trail"
    if config.wraps:
        wrap = ("encrypt", "decrypt")
        yield CryptographicAlgorithm("AES-256 key wrap", "other", wrap, "256", "", "", 256, 5), HARDWARE, "domain keys"
        cmac = CryptographicAlgorithm("AES-192-CMAC", "mac", ("tag", "verify"), "192", "", "", 128, 3)
        yield cmac, HARDWARE, "binding of wrapped key material"
    for issuer in config.web_identity:
        for name in sorted(ALGORITHMS):
            yield CryptographicAlgorithm(name, "signature", ("verify",)), SOFTWARE, f"web tokens of {issuer.issuer}"


def _tls() -> dict[str, Any]:
    suites = [
        {"name": "TLS 1.3, OpenSSL's default suites"},
        {"name": "TLS 1.2, ECDHE with AES-GCM or ChaCha20-Poly1305"},
    ]
    return {
        "type": "cryptographic-asset",
        "bom-ref": "TLS",
        "name": "TLS",
        "cryptoProperties": {
            "assetType": "protocol",
            "protocolProperties": {"type": "tls", "version": "1.2, 1.3", "cipherSuites": suites},
        },
    }


async def document(config: Config, now: datetime) -> str:
    """Return the CBOM as JSON. Raises `StoreUnavailable`."""
    async with open_store(config) as store:
        kinds = await (await store.read()).kinds_of_material()
    found: dict[tuple[CryptographicAlgorithm, str], dict[str, int | str]] = {}
    for kind, count in kinds.items():
        purposes = found.setdefault((algorithm_of(kind), HARDWARE), {})
        purposes[f"keyMaterials:{kind.spec.value}:{kind.usage.value}"] = count
    for algorithm, environment, purpose in _own(config):
        same = next((key for key in found if key[0].name == algorithm.name and key[1] == environment), None)
        found.setdefault(same or (algorithm, environment), {})["ownUse"] = purpose
    components = [algorithm.component(environment, purposes) for (algorithm, environment), purposes in found.items()]
    if config.listen.tls_certificate is not None:
        components.append(_tls())
    shown = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid4()}",
        "version": 1,
        "metadata": {
            "timestamp": now.isoformat(timespec="seconds"),
            "component": {"type": "application", "bom-ref": "kmsd", "name": "kmsd", "version": __version__},
        },
        "components": components,
    }
    return json.dumps(shown, indent=2)
