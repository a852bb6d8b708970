"""Initialisation before workers are forked, so that they share its memory.

Nothing here may draw a random number, leave a file open or start a thread: a fork would copy them.
"""

from __future__ import annotations

from contextlib import suppress
from importlib import import_module
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.serialization import load_der_public_key

from kmsd.adapters.pkcs11.key_pairs import CURVES
from kmsd.adapters.pkcs11.public_keys import spki_of_point
from kmsd.adapters.sqlite import connection
from kmsd.config import settings as configuration
from kmsd.domain.key_spec import KeySpec

# Base point of P-256 (FIPS 186-4 D.1.2.3): a public key whose private key is 1, so it is not a secret.
_P256_BASE_POINT = bytes.fromhex(
    "046b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296"
    "4fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5"
)


def preload() -> None:
    """Trigger the initialisation that libraries do at their first use."""
    import_module("_strptime")
    import_module("kmsd.adapters.sqlite.store")
    connection.migrations()
    with suppress(configuration.ConfigError):
        configuration.parse("", Path())
    key = load_der_public_key(spki_of_point(CURVES[KeySpec.ECC_NIST_P256], _P256_BASE_POINT))
    if isinstance(key, ec.EllipticCurvePublicKey):
        with suppress(InvalidSignature):
            key.verify(utils.encode_dss_signature(0, 1), b"", ec.ECDSA(hashes.SHA256()))
