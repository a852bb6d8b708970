"""Signature algorithms of the API as PKCS#11 mechanisms, and the encodings of their inputs and results.

Each algorithm over a hash has two mechanisms. One signs a digest. The other hashes the message in the token; SoftHSM
2.6.1 has none of these for ECDSA. The digest mechanism is always there, so the process can hash the message instead: a
message is no secret.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import msgspec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from pkcs11 import MGF, Mechanism

from kmsd.adapters.pkcs11.cryptoki_types import CkPssParams
from kmsd.domain.key_spec import HASH_BYTES, SigningAlgorithm, hash_of
from kmsd.ports import TokenError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from ctypes import Structure

    from kmsd.adapters.pkcs11.cryptoki import RawModule

_S = SigningAlgorithm
_HASHES: Mapping[str, tuple[Mechanism, MGF]] = {
    "SHA_256": (Mechanism.SHA256, MGF.SHA256),
    "SHA_384": (Mechanism.SHA384, MGF.SHA384),
    "SHA_512": (Mechanism.SHA512, MGF.SHA512),
}
_DIGEST_INFO: Mapping[str, bytes] = {
    "SHA_256": bytes.fromhex("3031300d060960864801650304020105000420"),
    "SHA_384": bytes.fromhex("3041300d060960864801650304020205000430"),
    "SHA_512": bytes.fromhex("3051300d060960864801650304020305000440"),
}
"""DER of DigestInfo up to the digest (RFC 8017 section 9.2, note 1)."""
_RSA_LENGTH = 1024
"""Bytes of the output buffer; the longest signature has 512."""


class SignatureScheme(msgspec.Struct, frozen=True):
    """Mechanisms of one algorithm."""

    of_digest: int | None
    """CKM_… that signs a digest; None if the algorithm signs messages only."""
    of_message: int
    """CKM_… that signs a message."""
    length: int
    """Bytes of the output buffer. NSS refuses an Ed25519 buffer of more than the signature's 64 bytes."""
    is_pss: bool = False
    is_ecdsa: bool = False

    @property
    def mechanisms(self) -> tuple[int, ...]:
        """All mechanisms of the algorithm."""
        return (self.of_message,) if self.of_digest is None else (self.of_digest, self.of_message)


SCHEMES: Mapping[SigningAlgorithm, SignatureScheme] = {
    _S.RSASSA_PKCS1_V1_5_SHA_256: SignatureScheme(Mechanism.RSA_PKCS, Mechanism.SHA256_RSA_PKCS, _RSA_LENGTH),
    _S.RSASSA_PKCS1_V1_5_SHA_384: SignatureScheme(Mechanism.RSA_PKCS, Mechanism.SHA384_RSA_PKCS, _RSA_LENGTH),
    _S.RSASSA_PKCS1_V1_5_SHA_512: SignatureScheme(Mechanism.RSA_PKCS, Mechanism.SHA512_RSA_PKCS, _RSA_LENGTH),
    _S.RSASSA_PSS_SHA_256: SignatureScheme(
        Mechanism.RSA_PKCS_PSS, Mechanism.SHA256_RSA_PKCS_PSS, _RSA_LENGTH, is_pss=True
    ),
    _S.RSASSA_PSS_SHA_384: SignatureScheme(
        Mechanism.RSA_PKCS_PSS, Mechanism.SHA384_RSA_PKCS_PSS, _RSA_LENGTH, is_pss=True
    ),
    _S.RSASSA_PSS_SHA_512: SignatureScheme(
        Mechanism.RSA_PKCS_PSS, Mechanism.SHA512_RSA_PKCS_PSS, _RSA_LENGTH, is_pss=True
    ),
    _S.ECDSA_SHA_256: SignatureScheme(Mechanism.ECDSA, Mechanism.ECDSA_SHA256, 2 * 32, is_ecdsa=True),
    _S.ECDSA_SHA_384: SignatureScheme(Mechanism.ECDSA, Mechanism.ECDSA_SHA384, 2 * 48, is_ecdsa=True),
    _S.ECDSA_SHA_512: SignatureScheme(Mechanism.ECDSA, Mechanism.ECDSA_SHA512, 2 * 66, is_ecdsa=True),
    _S.ED25519_SHA_512: SignatureScheme(None, Mechanism.EDDSA, 64),
    _S.ML_DSA_SHAKE_256: SignatureScheme(None, Mechanism.ML_DSA, 4627),
}
"""Algorithms that have a mechanism. ML-DSA-87 has the longest signature of its family (FIPS 204, table 2)."""
UNSUPPORTED: Mapping[str, str] = {
    _S.ED25519_PH_SHA_512: "no PKCS#11 mechanism takes a digest for Ed25519ph: CKM_EDDSA hashes the message itself",
}
"""Reasons why no token can offer an algorithm."""


def require_digest(algorithm: SigningAlgorithm, digest: bytes) -> None:
    """Raise ValueError unless the algorithm takes digests of this length."""
    scheme = SCHEMES[algorithm]
    if scheme.of_digest is None:
        raise ValueError(f"{algorithm} signs messages, not digests")
    if len(digest) != HASH_BYTES[hash_of(algorithm)]:
        raise ValueError(f"{algorithm} takes a digest of {HASH_BYTES[hash_of(algorithm)]} bytes, not {len(digest)}")


def digest_of(algorithm: SigningAlgorithm, message: bytes) -> bytes:
    """Return the digest of a message by the algorithm's hash."""
    return hashlib.new(hash_of(algorithm).replace("_", ""), message).digest()


def sign(raw: RawModule, session: int, key: int, algorithm: SigningAlgorithm, data: bytes, *, is_digest: bool) -> bytes:
    """Sign a message, or a digest that passed `require_digest`. Return the signature in the API's encoding.

    Raises `CkrError`, and `TokenError` for a signature of a wrong length.
    """
    scheme = SCHEMES[algorithm]
    if not is_digest or scheme.of_digest is None:
        mechanism = scheme.of_message
    else:
        mechanism = scheme.of_digest
        if mechanism == Mechanism.RSA_PKCS:
            data = _DIGEST_INFO[hash_of(algorithm)] + data
    parameter = _pss_parameter(algorithm) if scheme.is_pss else None
    signature = raw.sign(session, key, int(mechanism), data, parameter, scheme.length)
    return _der_signature(signature, scheme.length) if scheme.is_ecdsa else signature


def _pss_parameter(algorithm: SigningAlgorithm) -> Structure:
    """Return CK_RSA_PKCS_PSS_PARAMS. The salt is as long as the digest, as in AWS KMS."""
    name = hash_of(algorithm)
    digest, mask = _HASHES[name]
    return CkPssParams(int(digest), int(mask), HASH_BYTES[name])


def _der_signature(signature: bytes, length: int) -> bytes:
    """Encode PKCS#11's r and s, each of the order's length, as the SEQUENCE of RFC 3279. Raises `TokenError`."""
    # "an octet string of even length which is at most two times nLen octets, where nLen is the length in octets of the
    # base point order n" (PKCS#11 v2.40 mechanisms, ECDSA). Shorter signatures are refused.
    if len(signature) != length:
        raise TokenError(f"the token made an ECDSA signature of {len(signature)} bytes, not {length}")
    r, s = signature[: length // 2], signature[length // 2 :]
    return encode_dss_signature(int.from_bytes(r, "big"), int.from_bytes(s, "big"))
