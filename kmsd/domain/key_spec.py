"""Key specs, key usages and their algorithms (KMS API reference, "Key spec reference")."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


class KeyUsage(StrEnum):
    """The purpose of a key. It never changes."""

    ENCRYPT_DECRYPT = "ENCRYPT_DECRYPT"
    SIGN_VERIFY = "SIGN_VERIFY"
    GENERATE_VERIFY_MAC = "GENERATE_VERIFY_MAC"
    KEY_AGREEMENT = "KEY_AGREEMENT"
    ENCAPSULATE_DECAPSULATE = "ENCAPSULATE_DECAPSULATE"


class KeySpec(StrEnum):
    """The kind of key material."""

    SYMMETRIC_DEFAULT = "SYMMETRIC_DEFAULT"
    """AES-256: XAES-256-GCM if the token can derive keys, else AES-256-GCM."""
    RSA_2048 = "RSA_2048"
    RSA_3072 = "RSA_3072"
    RSA_4096 = "RSA_4096"
    ECC_NIST_P256 = "ECC_NIST_P256"
    ECC_NIST_P384 = "ECC_NIST_P384"
    ECC_NIST_P521 = "ECC_NIST_P521"
    ECC_SECG_P256K1 = "ECC_SECG_P256K1"
    ECC_NIST_EDWARDS25519 = "ECC_NIST_EDWARDS25519"
    HMAC_224 = "HMAC_224"
    HMAC_256 = "HMAC_256"
    HMAC_384 = "HMAC_384"
    HMAC_512 = "HMAC_512"
    ML_DSA_44 = "ML_DSA_44"
    ML_DSA_65 = "ML_DSA_65"
    ML_DSA_87 = "ML_DSA_87"
    ML_KEM_512 = "ML_KEM_512"
    ML_KEM_768 = "ML_KEM_768"
    ML_KEM_1024 = "ML_KEM_1024"
    SM2 = "SM2"
    """Offered by AWS in China only, and by no token that kmsd knows."""

    @property
    def is_asymmetric(self) -> bool:
        """True if the key has a public half."""
        return self is not KeySpec.SYMMETRIC_DEFAULT and self not in HMAC_BITS


class EncryptionAlgorithm(StrEnum):
    """`EncryptionAlgorithmSpec`."""

    SYMMETRIC_DEFAULT = "SYMMETRIC_DEFAULT"
    RSAES_OAEP_SHA_1 = "RSAES_OAEP_SHA_1"
    RSAES_OAEP_SHA_256 = "RSAES_OAEP_SHA_256"
    SM2PKE = "SM2PKE"


class SigningAlgorithm(StrEnum):
    """`SigningAlgorithmSpec`."""

    RSASSA_PSS_SHA_256 = "RSASSA_PSS_SHA_256"
    RSASSA_PSS_SHA_384 = "RSASSA_PSS_SHA_384"
    RSASSA_PSS_SHA_512 = "RSASSA_PSS_SHA_512"
    RSASSA_PKCS1_V1_5_SHA_256 = "RSASSA_PKCS1_V1_5_SHA_256"
    RSASSA_PKCS1_V1_5_SHA_384 = "RSASSA_PKCS1_V1_5_SHA_384"
    RSASSA_PKCS1_V1_5_SHA_512 = "RSASSA_PKCS1_V1_5_SHA_512"
    ECDSA_SHA_256 = "ECDSA_SHA_256"
    ECDSA_SHA_384 = "ECDSA_SHA_384"
    ECDSA_SHA_512 = "ECDSA_SHA_512"
    SM2DSA = "SM2DSA"
    ML_DSA_SHAKE_256 = "ML_DSA_SHAKE_256"
    ED25519_SHA_512 = "ED25519_SHA_512"
    ED25519_PH_SHA_512 = "ED25519_PH_SHA_512"


class MacAlgorithm(StrEnum):
    """`MacAlgorithmSpec`."""

    HMAC_SHA_224 = "HMAC_SHA_224"
    HMAC_SHA_256 = "HMAC_SHA_256"
    HMAC_SHA_384 = "HMAC_SHA_384"
    HMAC_SHA_512 = "HMAC_SHA_512"


class KeyAgreementAlgorithm(StrEnum):
    """`KeyAgreementAlgorithmSpec`."""

    ECDH = "ECDH"


class EncapsulationAlgorithm(StrEnum):
    """`EncapsulationAlgorithmSpec`."""

    ML_KEM = "ML_KEM"


class MessageType(StrEnum):
    """`MessageType` of Sign and Verify."""

    RAW = "RAW"
    DIGEST = "DIGEST"
    EXTERNAL_MU = "EXTERNAL_MU"
    """The 64-byte representative of an ML-DSA message. No PKCS#11 mechanism takes it."""


SYMMETRIC_DEFAULT = EncryptionAlgorithm.SYMMETRIC_DEFAULT.value
"""The only encryption algorithm of symmetric keys, and the default of requests that may name one."""

RSA_BITS: Mapping[KeySpec, int] = {KeySpec.RSA_2048: 2048, KeySpec.RSA_3072: 3072, KeySpec.RSA_4096: 4096}
"""Bits of the modulus."""
HMAC_BITS: Mapping[KeySpec, int] = {
    KeySpec.HMAC_224: 224,
    KeySpec.HMAC_256: 256,
    KeySpec.HMAC_384: 384,
    KeySpec.HMAC_512: 512,
}
"""Bits of a MAC key, and of its MACs."""
HASH_BYTES: Mapping[str, int] = {"SHA_1": 20, "SHA_256": 32, "SHA_384": 48, "SHA_512": 64}
"""Bytes of a digest, by the end of the algorithm's name."""

_E, _S, _M = EncryptionAlgorithm, SigningAlgorithm, MacAlgorithm
_RSA: Mapping[KeyUsage, tuple[str, ...]] = {
    KeyUsage.ENCRYPT_DECRYPT: (_E.RSAES_OAEP_SHA_1, _E.RSAES_OAEP_SHA_256),
    KeyUsage.SIGN_VERIFY: (
        *(_S.RSASSA_PKCS1_V1_5_SHA_256, _S.RSASSA_PKCS1_V1_5_SHA_384, _S.RSASSA_PKCS1_V1_5_SHA_512),
        *(_S.RSASSA_PSS_SHA_256, _S.RSASSA_PSS_SHA_384, _S.RSASSA_PSS_SHA_512),
    ),
}
_ML_DSA: Mapping[KeyUsage, tuple[str, ...]] = {KeyUsage.SIGN_VERIFY: (_S.ML_DSA_SHAKE_256,)}
_ML_KEM: Mapping[KeyUsage, tuple[str, ...]] = {KeyUsage.ENCAPSULATE_DECAPSULATE: (EncapsulationAlgorithm.ML_KEM,)}


def _nist_curve(signing: SigningAlgorithm) -> Mapping[KeyUsage, tuple[str, ...]]:
    return {KeyUsage.SIGN_VERIFY: (signing,), KeyUsage.KEY_AGREEMENT: (KeyAgreementAlgorithm.ECDH,)}


def _hmac(algorithm: MacAlgorithm) -> Mapping[KeyUsage, tuple[str, ...]]:
    return {KeyUsage.GENERATE_VERIFY_MAC: (algorithm,)}


ALGORITHMS: Mapping[KeySpec, Mapping[KeyUsage, tuple[str, ...]]] = {
    KeySpec.SYMMETRIC_DEFAULT: {KeyUsage.ENCRYPT_DECRYPT: (SYMMETRIC_DEFAULT,)},
    KeySpec.RSA_2048: _RSA,
    KeySpec.RSA_3072: _RSA,
    KeySpec.RSA_4096: _RSA,
    KeySpec.ECC_NIST_P256: _nist_curve(_S.ECDSA_SHA_256),
    KeySpec.ECC_NIST_P384: _nist_curve(_S.ECDSA_SHA_384),
    KeySpec.ECC_NIST_P521: _nist_curve(_S.ECDSA_SHA_512),
    KeySpec.ECC_SECG_P256K1: {KeyUsage.SIGN_VERIFY: (_S.ECDSA_SHA_256,)},
    KeySpec.ECC_NIST_EDWARDS25519: {KeyUsage.SIGN_VERIFY: (_S.ED25519_SHA_512, _S.ED25519_PH_SHA_512)},
    KeySpec.HMAC_224: _hmac(_M.HMAC_SHA_224),
    KeySpec.HMAC_256: _hmac(_M.HMAC_SHA_256),
    KeySpec.HMAC_384: _hmac(_M.HMAC_SHA_384),
    KeySpec.HMAC_512: _hmac(_M.HMAC_SHA_512),
    KeySpec.ML_DSA_44: _ML_DSA,
    KeySpec.ML_DSA_65: _ML_DSA,
    KeySpec.ML_DSA_87: _ML_DSA,
    KeySpec.ML_KEM_512: _ML_KEM,
    KeySpec.ML_KEM_768: _ML_KEM,
    KeySpec.ML_KEM_1024: _ML_KEM,
    KeySpec.SM2: {
        KeyUsage.ENCRYPT_DECRYPT: (_E.SM2PKE,),
        KeyUsage.SIGN_VERIFY: (_S.SM2DSA,),
        KeyUsage.KEY_AGREEMENT: (KeyAgreementAlgorithm.ECDH,),
    },
}
"""API names of the algorithms of each key spec, by usage. A token may offer fewer."""


def hash_of(algorithm: str) -> str:
    """Return the hash of an algorithm, a key of `HASH_BYTES`: the end of its name."""
    return next(name for name in HASH_BYTES if algorithm.endswith(name))
