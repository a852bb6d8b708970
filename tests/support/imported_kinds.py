"""RSA, ECC and HMAC keys of clients: made in software, imported, and used in both places."""

from __future__ import annotations

import hmac
import os
from collections.abc import Iterator
from functools import cache
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from kmsd.domain.key_spec import ALGORITHMS, HMAC_BITS, RSA_BITS, KeySpec, KeyUsage, SigningAlgorithm
from tests.support.key_import import external_key, parameters
from tests.support.key_kinds import Kind, mac_of, oaep, verify

CURVES: dict[KeySpec, ec.EllipticCurve] = {
    KeySpec.ECC_NIST_P256: ec.SECP256R1(),
    KeySpec.ECC_NIST_P384: ec.SECP384R1(),
    KeySpec.ECC_NIST_P521: ec.SECP521R1(),
    KeySpec.ECC_SECG_P256K1: ec.SECP256K1(),
}
IMPORTABLE: tuple[KeySpec, ...] = (*RSA_BITS, *CURVES, *HMAC_BITS)
HYBRID = "RSA_AES_KEY_WRAP_SHA_256"
PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


def importable_kinds() -> Iterator[Kind]:
    """Every spec and usage whose material can be imported into SoftHSM, symmetric encryption left out."""
    yield from ((spec, usage) for spec in IMPORTABLE for usage in ALGORITHMS[spec])


def new_pair(spec: KeySpec) -> PrivateKey:
    """A fresh private key."""
    return (
        rsa.generate_private_key(65537, RSA_BITS[spec]) if spec in RSA_BITS else ec.generate_private_key(CURVES[spec])
    )


@cache
def pair_of(spec: KeySpec) -> PrivateKey:
    """A private key of this spec, the same at each call: RSA takes its time."""
    return new_pair(spec)


def pkcs8(key: PrivateKey) -> bytes:
    """PrivateKeyInfo in DER."""
    return key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


@cache
def material_of(spec: KeySpec) -> bytes:
    """Material of this spec, the same at each call."""
    return os.urandom(HMAC_BITS[spec] // 8) if spec in HMAC_BITS else pkcs8(pair_of(spec))


def other_material_of(spec: KeySpec) -> bytes:
    """Other material of this spec."""
    return os.urandom(HMAC_BITS[spec] // 8) if spec in HMAC_BITS else pkcs8(new_pair(spec))


def spki_of(spec: KeySpec) -> bytes:
    """The public half of `pair_of`."""
    return pair_of(spec).public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def import_into(kms: Any, key_id: str, material: bytes, algorithm: str = HYBRID, **members: Any) -> dict[str, Any]:
    """Import material. The answer of ImportKeyMaterial."""
    answer: dict[str, Any] = kms.import_key_material(
        **{**parameters(kms, key_id, algorithm).members(material), **members}
    )
    return answer


def imported_key_of(kms: Any, kind: Kind, algorithm: str = HYBRID, **members: Any) -> str:
    """A key with the material of its spec."""
    key_id = external_key(kms, *kind)
    import_into(kms, key_id, material_of(kind[0]), algorithm, **members)
    return key_id


def use(kms: Any, key_id: str, kind: Kind) -> None:
    """Use a key for all that it can, and compare with the software key."""
    spec, usage = kind
    offered = kms.describe_key(KeyId=key_id)["KeyMetadata"]
    if usage is KeyUsage.GENERATE_VERIFY_MAC:
        _use_mac(kms, key_id, spec)
        return
    assert kms.get_public_key(KeyId=key_id)["PublicKey"] == spki_of(spec)
    if usage is KeyUsage.SIGN_VERIFY:
        assert offered["SigningAlgorithms"]
        for algorithm in offered["SigningAlgorithms"]:
            _use_signature(kms, key_id, spec, SigningAlgorithm(algorithm))
    elif usage is KeyUsage.ENCRYPT_DECRYPT:
        assert offered["EncryptionAlgorithms"]
        for algorithm in offered["EncryptionAlgorithms"]:
            _use_encryption(kms, key_id, spec, algorithm)
    else:
        _use_agreement(kms, key_id, spec)


def _use_mac(kms: Any, key_id: str, spec: KeySpec) -> None:
    name = mac_of(spec)
    mac = kms.generate_mac(KeyId=key_id, MacAlgorithm=name, Message=b"m")["Mac"]
    assert mac == hmac.digest(material_of(spec), b"m", name.removeprefix("HMAC_").replace("_", ""))
    assert kms.verify_mac(KeyId=key_id, MacAlgorithm=name, Message=b"m", Mac=mac)["MacValid"]


def _use_signature(kms: Any, key_id: str, spec: KeySpec, algorithm: SigningAlgorithm) -> None:
    signed = kms.sign(KeyId=key_id, SigningAlgorithm=algorithm, Message=b"m", MessageType="RAW")["Signature"]
    verify(spki_of(spec), algorithm, b"m", signed, digest=False)
    members = {"KeyId": key_id, "SigningAlgorithm": algorithm, "Message": b"m", "MessageType": "RAW"}
    assert kms.verify(**members, Signature=signed)["SignatureValid"]


def _use_encryption(kms: Any, key_id: str, spec: KeySpec, algorithm: str) -> None:
    public = pair_of(spec).public_key()
    assert isinstance(public, rsa.RSAPublicKey)
    blob = public.encrypt(b"secret", oaep(algorithm))
    members = {"KeyId": key_id, "EncryptionAlgorithm": algorithm}
    assert kms.decrypt(**members, CiphertextBlob=blob)["Plaintext"] == b"secret"
    private = pair_of(spec)
    assert isinstance(private, rsa.RSAPrivateKey)
    encrypted = kms.encrypt(**members, Plaintext=b"secret")["CiphertextBlob"]
    assert private.decrypt(encrypted, oaep(algorithm)) == b"secret"


def _use_agreement(kms: Any, key_id: str, spec: KeySpec) -> None:
    own, peer = pair_of(spec), ec.generate_private_key(CURVES[spec])
    assert isinstance(own, ec.EllipticCurvePrivateKey)
    peer_key = peer.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    answer = kms.derive_shared_secret(KeyId=key_id, KeyAgreementAlgorithm="ECDH", PublicKey=peer_key)
    assert answer["SharedSecret"] == peer.exchange(ec.ECDH(), own.public_key())
