"""Key pairs and MAC keys of every spec and usage: one table of their attributes and mechanisms."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from msgspec.structs import replace
from pkcs11 import Attribute, KeyType, Mechanism, ObjectClass

from kmsd.adapters.pkcs11.signature_schemes import SCHEMES
from kmsd.adapters.pkcs11.templates import (
    GENERATED_IN_TOKEN,
    GUARDED,
    PRIVATE_ROLES,
    PUBLIC_ROLES,
    SECRET_ROLES,
    ObjectProfile,
    only,
)
from kmsd.domain.key_spec import ALGORITHMS, HMAC_BITS, RSA_BITS, KeySpec, KeyUsage, MacAlgorithm, SigningAlgorithm
from kmsd.domain.material import OwnUsage

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from kmsd.adapters.pkcs11.cryptoki_types import Value
    from kmsd.adapters.pkcs11.templates import Proof

A = Attribute
CURVES: Mapping[KeySpec, bytes] = {
    KeySpec.ECC_NIST_P256: bytes.fromhex("06082a8648ce3d030107"),
    KeySpec.ECC_NIST_P384: bytes.fromhex("06052b81040022"),
    KeySpec.ECC_NIST_P521: bytes.fromhex("06052b81040023"),
    KeySpec.ECC_SECG_P256K1: bytes.fromhex("06052b8104000a"),
    KeySpec.ECC_NIST_EDWARDS25519: bytes.fromhex("06032b6570"),
}
"""DER of the curve's object identifier, the value of CKA_EC_PARAMS (RFC 5480 section 2.1.1.1, RFC 8410 section 3)."""
EDWARDS25519_NAME = bytes.fromhex("130c") + b"edwards25519"
"""The other encoding of that curve, a PrintableString (PKCS#11 v3.1 section 6.3.5). SoftHSM 2.6.1 takes both and shows
this one on private keys."""
PARAMETER_SETS: Mapping[KeySpec, int] = {
    KeySpec.ML_DSA_44: 1,
    KeySpec.ML_DSA_65: 2,
    KeySpec.ML_DSA_87: 3,
    KeySpec.ML_KEM_512: 1,
    KeySpec.ML_KEM_768: 2,
    KeySpec.ML_KEM_1024: 3,
}
"""CKP_ML_DSA_… and CKP_ML_KEM_…, the value of CKA_PARAMETER_SET (PKCS#11 v3.2)."""
MAC_MECHANISMS: Mapping[MacAlgorithm, int] = {
    MacAlgorithm.HMAC_SHA_224: int(Mechanism.SHA224_HMAC),
    MacAlgorithm.HMAC_SHA_256: int(Mechanism.SHA256_HMAC),
    MacAlgorithm.HMAC_SHA_384: int(Mechanism.SHA384_HMAC),
    MacAlgorithm.HMAC_SHA_512: int(Mechanism.SHA512_HMAC),
}
_PUBLIC_OBJECT: dict[Attribute, Value] = {A.TOKEN: True, A.PRIVATE: False, A.MODIFIABLE: False}
_ROLES: Mapping[KeyUsage, tuple[tuple[Attribute, ...], tuple[Attribute, ...]]] = {
    KeyUsage.SIGN_VERIFY: ((A.SIGN,), (A.VERIFY,)),
    KeyUsage.ENCRYPT_DECRYPT: ((A.DECRYPT,), (A.ENCRYPT,)),
    KeyUsage.KEY_AGREEMENT: ((A.DERIVE,), ()),
    KeyUsage.ENCAPSULATE_DECAPSULATE: ((A.DECAPSULATE,), (A.ENCAPSULATE,)),
}
"""Roles of the private and of the public half."""


class KeyPair(msgspec.Struct, frozen=True):
    """One kind of key pair: both halves, and their generation."""

    generation: int
    """CKM_… of C_GenerateKeyPair."""
    private: ObjectProfile
    public: ObjectProfile
    parameters: Mapping[Attribute, Value]
    """Further attributes that the public half is created with."""
    is_slow: bool = False
    """True if generation takes seconds."""


def rsa_parameters(bits: int) -> dict[Attribute, Value]:
    """Return the attributes of the public half that determine an RSA pair."""
    return {A.MODULUS_BITS: bits, A.PUBLIC_EXPONENT: b"\x01\x00\x01"}


def _kind_of(spec: KeySpec) -> tuple[KeyType, Mechanism, dict[Attribute, Value]]:
    """Return key type, generation mechanism and the attributes that determine a pair."""
    if spec in RSA_BITS:
        return KeyType.RSA, Mechanism.RSA_PKCS_KEY_PAIR_GEN, rsa_parameters(RSA_BITS[spec])
    if spec is KeySpec.ECC_NIST_EDWARDS25519:
        return KeyType.EC_EDWARDS, Mechanism.EC_EDWARDS_KEY_PAIR_GEN, {A.EC_PARAMS: CURVES[spec]}
    if spec in CURVES:
        return KeyType.EC, Mechanism.EC_KEY_PAIR_GEN, {A.EC_PARAMS: CURVES[spec]}
    parameters: dict[Attribute, Value] = {A.PARAMETER_SET: PARAMETER_SETS[spec]}
    if spec.startswith("ML_DSA"):
        return KeyType.ML_DSA, Mechanism.ML_DSA_KEY_PAIR_GEN, parameters
    return KeyType.ML_KEM, Mechanism.ML_KEM_KEY_PAIR_GEN, parameters


def mechanisms_of(spec: KeySpec, usage: KeyUsage) -> tuple[int, ...]:
    """Return all mechanisms that a private key of this kind is used with, in ascending order."""
    if usage is KeyUsage.KEY_AGREEMENT:
        return (int(Mechanism.ECDH1_DERIVE),)
    if usage is KeyUsage.ENCRYPT_DECRYPT:
        return (int(Mechanism.RSA_PKCS_OAEP),)
    if usage is KeyUsage.ENCAPSULATE_DECAPSULATE:
        return (int(Mechanism.ML_KEM),)
    schemes = (SCHEMES[SigningAlgorithm(name)] for name in ALGORITHMS[spec][usage] if name in SCHEMES)
    return tuple(sorted({mechanism for scheme in schemes for mechanism in scheme.mechanisms}))


def _pair(spec: KeySpec, usage: KeyUsage) -> KeyPair:
    key_type, generation, parameters = _kind_of(spec)
    mine, theirs = _ROLES[usage]
    proofs: dict[Attribute, Proof] = {k: value for k, value in parameters.items() if k != A.PUBLIC_EXPONENT}
    if spec is KeySpec.ECC_NIST_EDWARDS25519:
        proofs[A.EC_PARAMS] = (CURVES[spec], EDWARDS25519_NAME)
    # RSA pairs are copies of session objects if the token can copy (`Objects.create_pair`). SoftHSM 2.6.1 accepts
    # CKA_COPYABLE at generation only, and an object that has it cannot be copied.
    once: dict[Attribute, Value] = {} if spec in RSA_BITS else {A.COPYABLE: False}
    private = ObjectProfile(
        name=f"{spec} {usage}",
        object_class=ObjectClass.PRIVATE_KEY,
        key_type=key_type,
        template=GUARDED | only(mine, (*PRIVATE_ROLES, *mine)),
        where_allowed={**once, A.ALLOWED_MECHANISMS: mechanisms_of(spec, usage)},
        proofs=GENERATED_IN_TOKEN,
        if_shown=proofs,
    )
    public = ObjectProfile(
        name=f"{spec} {usage}",
        object_class=ObjectClass.PUBLIC_KEY,
        key_type=key_type,
        template=_PUBLIC_OBJECT | only(theirs, (*PUBLIC_ROLES, *theirs)),
        where_allowed=once,
        proofs=proofs,
    )
    # CKA_DERIVE of a public half is not checked: earlier releases left it to the token, and NSS has True as default.
    return KeyPair(int(generation), private, public, {A.DERIVE: False, **parameters}, is_slow=spec in RSA_BITS)


def _kinds() -> Iterator[tuple[KeySpec, KeyUsage]]:
    for spec, usages in ALGORITHMS.items():
        if spec.is_asymmetric and spec is not KeySpec.SM2:
            yield from ((spec, usage) for usage in usages)


KEY_PAIRS: Mapping[tuple[KeySpec, KeyUsage], KeyPair] = {kind: _pair(*kind) for kind in _kinds()}
WRAPPING_PRIVATE = ObjectProfile(
    name="wrapping",
    object_class=ObjectClass.PRIVATE_KEY,
    key_type=KeyType.RSA,
    template=GUARDED | only((A.UNWRAP,), PRIVATE_ROLES),
    where_allowed={A.ALLOWED_MECHANISMS: (int(Mechanism.RSA_PKCS), int(Mechanism.RSA_PKCS_OAEP))},
    proofs=GENERATED_IN_TOKEN,
)
WRAPPING_PUBLIC = ObjectProfile(
    name="wrapping",
    object_class=ObjectClass.PUBLIC_KEY,
    key_type=KeyType.RSA,
    template=_PUBLIC_OBJECT | only((A.WRAP,), PUBLIC_ROLES),
    where_allowed={},
    proofs={},
)


def mac_algorithm_of(spec: KeySpec) -> MacAlgorithm:
    """Return the only algorithm of an HMAC spec."""
    return MacAlgorithm(ALGORITHMS[spec][KeyUsage.GENERATE_VERIFY_MAC][0])


MAC_KEYS: Mapping[KeySpec, ObjectProfile] = {
    spec: ObjectProfile(
        name=spec,
        object_class=ObjectClass.SECRET_KEY,
        key_type=KeyType.GENERIC_SECRET,
        template=GUARDED | only((A.SIGN,), SECRET_ROLES),
        where_allowed={A.COPYABLE: False, A.ALLOWED_MECHANISMS: (MAC_MECHANISMS[mac_algorithm_of(spec)],)},
        proofs=GENERATED_IN_TOKEN | {A.VALUE_LEN: bits // 8},
    )
    for spec, bits in HMAC_BITS.items()
}


def wrapping_pair(bits: int) -> KeyPair:
    """Return the kind of an RSA wrapping pair."""
    public = replace(WRAPPING_PUBLIC, proofs={A.MODULUS_BITS: bits})
    generation = int(Mechanism.RSA_PKCS_KEY_PAIR_GEN)
    return KeyPair(generation, WRAPPING_PRIVATE, public, rsa_parameters(bits), is_slow=True)


def pair_of(spec: KeySpec, usage: KeyUsage | OwnUsage) -> KeyPair:
    """Return the kind of a pair, of a client's key or of the daemon itself."""
    return wrapping_pair(RSA_BITS[spec]) if isinstance(usage, OwnUsage) else KEY_PAIRS[spec, usage]


def session_pair(pair: KeyPair) -> tuple[dict[int, Value], dict[int, Value]]:
    """Return the public and the private template of a pair of session objects, without `where_allowed`."""
    public = {**pair.public.template, **pair.parameters, A.TOKEN: False}
    private = {**pair.private.template, A.TOKEN: False}
    return {int(kind): value for kind, value in public.items()}, {int(kind): value for kind, value in private.items()}
