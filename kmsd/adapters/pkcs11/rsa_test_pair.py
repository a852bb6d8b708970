"""RSA pair of self-tests: a published one, since the generation of a pair takes a tenth of a second."""

from __future__ import annotations

from functools import cache
from math import lcm
from types import MappingProxyType
from typing import TYPE_CHECKING

import structlog
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pkcs11 import Attribute, KeyType, ObjectClass

from kmsd.adapters.pkcs11.key_pairs import session_pair
from kmsd.adapters.pkcs11.public_keys import PUBLIC_KEY_ATTRIBUTES, spki_of
from kmsd.adapters.pkcs11.return_codes import CkrError, ErrorClass

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kmsd.adapters.pkcs11.cryptoki import RawModule
    from kmsd.adapters.pkcs11.cryptoki_types import Value
    from kmsd.adapters.pkcs11.key_pairs import KeyPair

log = structlog.get_logger(__name__)

TEST_BITS = 2048
"""Bits of the modulus."""
# Not a secret: an RSA key generated for this self-test only, and published here.
_P = int(
    "ef91c9201eed89e2704524ab4f8211135d7f70d1e9f3e67ecc237168d937a6fe7c96fbaaaae3f9dcaae302d988126c3c"
    "42a164a70ec51c15ee45fd8e6b91017165d8296cc66059964aad1db2ea21e450458d81255eb8d24f73dab711ee5bd332"
    "5423b24ceb9f44fdc12340129d144f9e3e06adb45a4aa3793d0ffcfac8f6dae1",
    16,
)
_Q = int(
    "e62ff401a320b5307227f370b13ecb282c71c1782458c4d64e8860044302be91b54c72f1c30a9c5bcc83205122340330"
    "a1aeaefdd86f42c2af9b7c25644da3fcb4236a5e7bd8a3af0490f719fd70b2268bd195fef58d4220f0b9f31146902a3b"
    "3a5ef685a8fec574082c7c6ebdb9bea749431767d93755b780c7220efd831ee9",
    16,
)
_E = 65537


@cache
def published_key() -> rsa.RSAPrivateKey:
    """Return the published key, whose value the process knows."""
    d = pow(_E, -1, lcm(_P - 1, _Q - 1))
    crt = (rsa.rsa_crt_dmp1(d, _P), rsa.rsa_crt_dmq1(d, _Q), rsa.rsa_crt_iqmp(_P, _Q))
    return rsa.RSAPrivateNumbers(_P, _Q, d, *crt, rsa.RSAPublicNumbers(_E, _P * _Q)).private_key()


def rsa_test_pair(
    raw: RawModule, session: int, pair: KeyPair, *, changes: Mapping[int, Value] = MappingProxyType({})
) -> tuple[int, int, bytes]:
    """Create the published private key as a session object with the roles of `pair`, which has `TEST_BITS`.

    `changes` are attributes of the private half that differ from those.

    Return its handle, the handle of the public half or 0, and the public key, DER SubjectPublicKeyInfo. A token that
    refuses plaintext keys generates a pair instead, which has a public half. Raises `CkrError`, `TokenError`.
    """
    public, private = session_pair(pair)
    private |= changes
    template: dict[int, Value] = {
        Attribute.CLASS: int(ObjectClass.PRIVATE_KEY),
        Attribute.KEY_TYPE: int(KeyType.RSA),
        **private,
        **{kind: value.to_bytes((value.bit_length() + 7) // 8, "big") for kind, value in _components().items()},
    }
    try:
        handle = raw.create(session, template)
    except CkrError as error:
        if error.error_class in (ErrorClass.SESSION, ErrorClass.LOGIN):
            raise
        log.info("token_refuses_known_keys", reason=str(error))
        key, half = raw.generate_pair(session, pair.generation, public, private)
        return key, half, spki_of(raw.attributes(session, half, PUBLIC_KEY_ATTRIBUTES))
    return handle, 0, published_key().public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _components() -> dict[Attribute, int]:
    numbers = published_key().private_numbers()
    return {
        Attribute.MODULUS: numbers.public_numbers.n,
        Attribute.PUBLIC_EXPONENT: numbers.public_numbers.e,
        Attribute.PRIVATE_EXPONENT: numbers.d,
        Attribute.PRIME_1: numbers.p,
        Attribute.PRIME_2: numbers.q,
        Attribute.EXPONENT_1: numbers.dmp1,
        Attribute.EXPONENT_2: numbers.dmq1,
        Attribute.COEFFICIENT: numbers.iqmp,
    }
