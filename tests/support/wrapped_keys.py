"""Wrapped material of every kind as the contract tests make and use it."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from datetime import UTC, datetime
from uuid import uuid4

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_der_public_key

from kmsd.adapters.pkcs11 import Pkcs11Token
from kmsd.adapters.pkcs11.ceremony import NewDomainKey
from kmsd.domain.domain_key import DomainKey, DomainKeyState
from kmsd.domain.key_spec import EncryptionAlgorithm, KeySpec, KeyUsage, MacAlgorithm, SigningAlgorithm
from kmsd.domain.material import Algorithm, MaterialIdentity, TokenName, WrappedMaterial
from tests.support.key_kinds import Kind, oaep, point_of, verify

SYMMETRIC: Kind = (KeySpec.SYMMETRIC_DEFAULT, KeyUsage.ENCRYPT_DECRYPT)
XAES = Algorithm.XAES_256_GCM
NEVER_WRAPPED = {KeySpec.ECC_NIST_EDWARDS25519}
"""SoftHSM 2.6.1 does not wrap them."""
TEXT, AAD = b"plaintext of a client", b"associated data"


def rows_of(made: Iterable[NewDomainKey]) -> list[DomainKey]:
    """Rows of new domain keys, each as if it were the current one."""
    now = datetime.now(UTC)
    return [
        DomainKey(one.domain_key_id, TokenName.MAIN, DomainKeyState.CURRENT, one.binding_key, now, now) for one in made
    ]


def identity(kind: Kind = SYMMETRIC, *, algorithm: Algorithm = XAES, is_imported: bool = False) -> MaterialIdentity:
    """The identity of new material."""
    used = algorithm if kind == SYMMETRIC else None
    return MaterialIdentity(str(uuid4()), secrets.token_bytes(16), *kind, used, is_imported)


async def use(token: Pkcs11Token, material: WrappedMaterial, algorithm: str) -> bytes:
    """Use a key by an algorithm of its kind, and check the result. Returns the ciphertext, MAC, signature or secret."""
    match material.identity.usage:
        case KeyUsage.ENCRYPT_DECRYPT if (sealing := material.identity.algorithm) is not None:
            sealed = await token.encrypt(material, sealing, TEXT, AAD)
            assert await token.decrypt(material, sealing, sealed, AAD) == TEXT
            return sealed
        case KeyUsage.GENERATE_VERIFY_MAC:
            first, second = [await token.mac(material, MacAlgorithm(algorithm), TEXT) for _ in range(2)]
            assert first == second
            return first
        case KeyUsage.SIGN_VERIFY:
            signing = SigningAlgorithm(algorithm)
            signature = await token.sign(material, signing, TEXT, is_digest=False)
            verify(material.public_key, signing, TEXT, signature, digest=False)
            return signature
        case KeyUsage.ENCRYPT_DECRYPT:
            public = load_der_public_key(material.public_key)
            ciphertext: bytes = public.encrypt(TEXT, oaep(algorithm))  # type: ignore[union-attr, call-arg]
            assert await token.decrypt_rsa(material, EncryptionAlgorithm(algorithm), ciphertext) == TEXT
            return ciphertext
        case _:
            own = load_der_public_key(material.public_key)
            assert isinstance(own, ec.EllipticCurvePublicKey)
            peer = ec.generate_private_key(own.curve)
            secret = await token.agree(material, point_of(peer.public_key()))
            assert secret == peer.exchange(ec.ECDH(), own)
            return secret
