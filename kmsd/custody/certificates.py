"""Certificate requests and self-signed certificates, signed in the token.

`cryptography` builds them. It takes a private key with the methods of its own ones, and asks it for signatures only.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, NoReturn

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from kmsd.custody import public_keys
from kmsd.domain.key_spec import SigningAlgorithm

SignMessage = Callable[[SigningAlgorithm, bytes], bytes]
"""Signs a message in the token, and waits for it."""
_ECDSA = {
    "secp256r1": SigningAlgorithm.ECDSA_SHA_256,
    "secp256k1": SigningAlgorithm.ECDSA_SHA_256,
    "secp384r1": SigningAlgorithm.ECDSA_SHA_384,
    "secp521r1": SigningAlgorithm.ECDSA_SHA_512,
}


class _InToken:
    """A private key that only signs."""

    def __init__(self, public: Any, sign: SignMessage) -> None:
        self._public = public
        self._sign = sign

    def public_key(self) -> Any:
        return self._public

    @property
    def key_size(self) -> int:
        return int(self._public.key_size)

    def _refuse(self, *_: object, **__: object) -> NoReturn:
        raise TypeError("the key is in the token, and only signs")

    private_numbers = private_bytes = private_bytes_raw = exchange = decrypt = __copy__ = __deepcopy__ = _refuse


class _EcKey(_InToken, ec.EllipticCurvePrivateKey):
    @property
    def curve(self) -> ec.EllipticCurve:
        curve: ec.EllipticCurve = self._public.curve
        return curve

    def sign(self, data: Any, signature_algorithm: object) -> bytes:
        del signature_algorithm  # `_hash_of` has chosen it
        return self._sign(_ECDSA[self.curve.name], bytes(data))


class _RsaKey(_InToken, rsa.RSAPrivateKey):
    def sign(self, data: Any, padding: object, algorithm: object) -> bytes:
        del padding, algorithm
        return self._sign(SigningAlgorithm.RSASSA_PKCS1_V1_5_SHA_256, bytes(data))


class _Ed25519Key(_InToken, ed25519.Ed25519PrivateKey):
    def sign(self, data: Any) -> bytes:
        return self._sign(SigningAlgorithm.ED25519_SHA_512, bytes(data))


def _private_key(public_key: bytes, sign: SignMessage) -> tuple[Any, Any]:
    """Return the key in the token, and the hash of its signatures. Raises ValueError for a kind without X.509."""
    public = public_keys.load(public_key)
    match public:
        case ec.EllipticCurvePublicKey():
            return _EcKey(public, sign), public_keys.HASHES[_ECDSA[public.curve.name][-7:]]
        case rsa.RSAPublicKey():
            return _RsaKey(public, sign), hashes.SHA256()
        case ed25519.Ed25519PublicKey():
            return _Ed25519Key(public, sign), None
        case _:
            raise ValueError("certificates of this kind of key are not supported")


def request(public_key: bytes, subject: x509.Name, sign: SignMessage) -> bytes:
    """Return a certificate request (PKCS#10), PEM. Raises ValueError for a kind of key without X.509."""
    private, function = _private_key(public_key, sign)
    builder = x509.CertificateSigningRequestBuilder(subject)
    return builder.sign(private, function).public_bytes(serialization.Encoding.PEM)


def self_signed(public_key: bytes, subject: x509.Name, sign: SignMessage, *, now: datetime, days: int) -> bytes:
    """Return a self-signed certificate of an authority, PEM, valid for `days`. Raises ValueError as `request`."""
    private, function = _private_key(public_key, sign)
    uses = dict.fromkeys(
        (
            *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement"),
            *("encipher_only", "decipher_only"),
        ),
        False,
    )
    builder = (
        x509.CertificateBuilder(subject, subject, private.public_key(), x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(key_cert_sign=True, crl_sign=True, **uses), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(private.public_key()), critical=False)
    )
    return builder.sign(private, function).public_bytes(serialization.Encoding.PEM)
