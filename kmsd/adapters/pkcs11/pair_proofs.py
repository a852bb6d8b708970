"""Proof that a private key in the token belongs to a public key: it is used, and the result verified in the process."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from kmsd.adapters.pkcs11 import key_operations, signature_schemes
from kmsd.adapters.pkcs11.expectations import WrongAnswer, expect
from kmsd.adapters.pkcs11.signature_schemes import SCHEMES, digest_of
from kmsd.custody.public_keys import HASHES, is_valid_signature, load
from kmsd.domain.key_spec import EncryptionAlgorithm, KeyUsage, SigningAlgorithm, hash_of

if TYPE_CHECKING:
    from kmsd.adapters.pkcs11.cryptoki import RawModule

MESSAGE = b"self-test of a key"


def prove(raw: RawModule, session: int, private: int, public_key: bytes, use: tuple[KeyUsage, str]) -> None:
    """Use a private key once, by an algorithm of its usage. Raises `WrongAnswer`, `TokenError` and `CkrError`."""
    usage, algorithm = use
    if usage is KeyUsage.SIGN_VERIFY:
        is_digest = SCHEMES[SigningAlgorithm(algorithm)].of_digest is not None
        sign(raw, session, private, public_key, SigningAlgorithm(algorithm), is_digest=is_digest)
    elif usage is KeyUsage.ENCRYPT_DECRYPT:
        decrypt(raw, session, private, public_key, EncryptionAlgorithm(algorithm))
    else:
        agree(raw, session, private, public_key)


def sign(
    raw: RawModule, session: int, private: int, public_key: bytes, algorithm: SigningAlgorithm, *, is_digest: bool
) -> None:
    """Sign `MESSAGE`, or its digest, and verify the signature. Raises as `prove`."""
    data = digest_of(algorithm, MESSAGE) if is_digest else MESSAGE
    signature = signature_schemes.sign(raw, session, private, algorithm, data, is_digest=is_digest)
    if not is_valid_signature(load(public_key), algorithm, MESSAGE, signature, is_digest=False):
        raise WrongAnswer


def decrypt(raw: RawModule, session: int, private: int, public_key: bytes, algorithm: EncryptionAlgorithm) -> None:
    """Encrypt `MESSAGE` with an RSA public key, and decrypt it in the token. Raises as `prove`."""
    key = serialization.load_der_public_key(public_key)
    if not isinstance(key, rsa.RSAPublicKey):
        raise WrongAnswer
    function = HASHES[hash_of(algorithm)]
    ciphertext = key.encrypt(MESSAGE, padding.OAEP(padding.MGF1(function), function, None))
    expect(key_operations.decrypt_rsa(raw, session, private, algorithm, ciphertext), MESSAGE)


def agree(raw: RawModule, session: int, private: int, public_key: bytes) -> None:
    """Agree on a secret with a peer of this process. Raises as `prove`."""
    key = serialization.load_der_public_key(public_key)
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise WrongAnswer
    peer = ec.generate_private_key(key.curve)
    encoding, form = serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
    point = peer.public_key().public_bytes(encoding, form)
    expect(key_operations.agree(raw, session, private, point), peer.exchange(ec.ECDH(), key))
