"""Key agreement: ECDH with a peer's public key, in the token."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from kmsd.custody import key_material, public_keys
from kmsd.errors import ValidationException

if TYPE_CHECKING:
    from datetime import datetime

    from kmsd.domain.key import Key
    from kmsd.ports import Tokens


async def agree(tokens: Tokens, key: Key, now: datetime, peer: bytes) -> bytes:
    """Return the raw shared secret with a peer's public key, DER SubjectPublicKeyInfo.

    Raises ValidationException unless it is a point on the key's curve, KeyUnavailableException, and the token's errors.
    """
    material = key_material.current(key, now)
    own = public_keys.load(material.public_key)
    try:
        other = serialization.load_der_public_key(peer)  # checks that the point is on the curve
    except (ValueError, UnsupportedAlgorithm) as exc:
        raise ValidationException("The public key is not a DER-encoded X.509 SubjectPublicKeyInfo.") from exc
    if not (
        isinstance(own, ec.EllipticCurvePublicKey)
        and isinstance(other, ec.EllipticCurvePublicKey)
        and own.curve.name == other.curve.name
    ):
        raise ValidationException(f"The public key must be on the curve of {key.spec}.")
    point = other.public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)
    return await tokens.of(material).agree(material.reference, point)
