"""The operations that a grant on a key may allow, by the key's usage (Developer Guide, "Grant operations")."""

from __future__ import annotations

from collections.abc import Mapping

from kmsd.domain.key import Key
from kmsd.domain.key_spec import KeySpec, KeyUsage

_ANY_KEY = ("CreateGrant", "RetireGrant", "DescribeKey")
_SYMMETRIC = (
    *("Decrypt", "Encrypt", "GenerateDataKey", "GenerateDataKeyWithoutPlaintext", "ReEncryptFrom", "ReEncryptTo"),
    *("GenerateDataKeyPair", "GenerateDataKeyPairWithoutPlaintext"),
)
_BY_USAGE: Mapping[KeyUsage, tuple[str, ...]] = {
    KeyUsage.ENCRYPT_DECRYPT: ("Decrypt", "Encrypt", "ReEncryptFrom", "ReEncryptTo", "GetPublicKey"),
    KeyUsage.SIGN_VERIFY: ("Sign", "Verify", "GetPublicKey"),
    KeyUsage.GENERATE_VERIFY_MAC: ("GenerateMac", "VerifyMac"),
    KeyUsage.KEY_AGREEMENT: ("DeriveSharedSecret", "GetPublicKey"),
    KeyUsage.ENCAPSULATE_DECAPSULATE: ("Encapsulate", "Decapsulate", "GetPublicKey"),
}


def grantable(key: Key) -> tuple[str, ...]:
    """Return the operations that a grant on `key` may allow."""
    return _ANY_KEY + (_SYMMETRIC if key.spec is KeySpec.SYMMETRIC_DEFAULT else _BY_USAGE[key.usage])
