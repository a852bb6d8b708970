"""ECDSA on P-256: convert PKCS#11's encodings of signatures and public keys to DER."""

from __future__ import annotations

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from kmsd.ports import TokenError

SIGNATURE_HASH = hashes.SHA256()
DIGEST_LENGTH = SIGNATURE_HASH.digest_size
_COORDINATE = 32
_UNCOMPRESSED = 4
_POINT_LENGTH = 1 + 2 * _COORDINATE
# RFC 5480: SEQUENCE { SEQUENCE { id-ecPublicKey, prime256v1 }, BIT STRING of 65 bytes }, up to the point.
_SPKI_HEAD = bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d030107034200")


def der_signature(signature: bytes) -> bytes:
    """Encode PKCS#11's r and s, each of the order's length, as the SEQUENCE of RFC 3279. Raises `TokenError`."""
    # "an octet string of even length which is at most two times nLen octets, where nLen is the length in octets of the
    # base point order n" (PKCS#11 v2.40 mechanisms, ECDSA). Shorter signatures are refused.
    if len(signature) != 2 * _COORDINATE:
        raise TokenError(f"the token made a P-256 signature of {len(signature)} bytes")
    r, s = signature[:_COORDINATE], signature[_COORDINATE:]
    return encode_dss_signature(int.from_bytes(r, "big"), int.from_bytes(s, "big"))


def spki_of_ec_point(ec_point: bytes) -> bytes:
    """Return the DER SubjectPublicKeyInfo of CKA_EC_POINT. Raises `TokenError`.

    CKA_EC_POINT is the "DER-encoding of ANSI X9.62 ECPoint value Q" (PKCS#11 v2.40 section 2.3.3), an OCTET STRING.
    Some modules return the point without it.
    """
    point = ec_point[2:] if ec_point[:2] == bytes((4, _POINT_LENGTH)) else ec_point
    if len(point) != _POINT_LENGTH or point[0] != _UNCOMPRESSED:
        raise TokenError("the token shows no uncompressed P-256 point")
    return _SPKI_HEAD + point
