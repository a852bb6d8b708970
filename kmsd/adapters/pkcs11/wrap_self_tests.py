"""Self-tests of wrapping: which kinds of keys the token wraps, unwraps and uses afterwards.

The mechanism list proves nothing: SoftHSM 2.6.1 lists CKM_AES_KEY_WRAP_PAD, but does not wrap Ed25519 keys. So a key of
each kind is generated, wrapped under the domain key, unwrapped, and used; the result must be the same. For RSA it is a
published pair of 2048 bits, because the generation of a pair takes a tenth of a second.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING
from uuid import UUID

import msgspec
import structlog
from pkcs11 import Attribute, KeyType

from kmsd.adapters.pkcs11 import key_operations
from kmsd.adapters.pkcs11.key_pairs import mac_algorithm_of, pair_of
from kmsd.adapters.pkcs11.return_codes import CkrError, ErrorClass
from kmsd.adapters.pkcs11.rsa_test_pair import rsa_test_pair
from kmsd.adapters.pkcs11.templates import session_key
from kmsd.adapters.pkcs11.wrap_mechanisms import KEY_WRAP, PADDED_KEY_WRAPS
from kmsd.adapters.pkcs11.wrapped_templates import to_wrap
from kmsd.adapters.pkcs11.wrapping import WrapMethod, anything
from kmsd.domain.key_spec import HMAC_BITS, RSA_BITS, KeySpec, KeyUsage
from kmsd.domain.material import Algorithm, MaterialIdentity
from kmsd.ports import TokenError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from kmsd.adapters.pkcs11.cryptoki import RawModule
    from kmsd.adapters.pkcs11.cryptoki_types import WrapMechanism
    from kmsd.adapters.pkcs11.login import Login
    from kmsd.adapters.pkcs11.session_pool import Session
    from kmsd.adapters.pkcs11.wrapping import IsSame, Trial
    from kmsd.domain.domain_key import DomainKey
    from kmsd.ports import KeyOffer

    Kind = tuple[KeySpec, KeyUsage]

log = structlog.get_logger(__name__)
A = Attribute
_BLOCK = 16
_MESSAGE = b"self-test of wrapping"
_READABLE = session_key(KeyType.GENERIC_SECRET, _BLOCK, (), readable=True)
_SYMMETRIC = (KeySpec.SYMMETRIC_DEFAULT, KeyUsage.ENCRYPT_DECRYPT)


class WrappableKinds(msgspec.Struct, frozen=True):
    """Result of the self-tests."""

    methods: Mapping[Kind, WrapMethod]
    lacking: Mapping[Kind, str]
    """The reason for each kind that the token offers, and cannot wrap."""


def test_wrapping(
    login: Login, domain_key: DomainKey, algorithms: Iterable[Algorithm], offers: Mapping[Kind, KeyOffer]
) -> WrappableKinds:
    """Test every kind that the token offers. Raises `CustodyNotEnforced`, `NotFound`, `TokenError` and `CkrError`.

    A domain key that does not work lacks nothing: its error is raised.
    """
    name = domain_key.domain_key_id, domain_key.binding_key
    login.connection.run(lambda session: login.wrapped.domain(session, *name))
    methods: dict[Kind, WrapMethod] = {}
    lacking: dict[Kind, str] = {}
    kinds = [_SYMMETRIC, *(kind for kind, offer in offers.items() if offer.algorithms)]
    algorithm = min(algorithms, default=None)
    for kind in kinds if algorithm is not None else kinds[1:]:
        use = offers[kind].algorithms[0] if kind[0].is_asymmetric else ""
        found = _method(login, domain_key, kind, use, algorithm if kind == _SYMMETRIC else None)
        if isinstance(found, str):
            lacking[kind] = found
        else:
            methods[kind] = found
    log.info("token_wraps", kinds=[f"{spec} {usage}" for spec, usage in methods])
    return WrappableKinds(methods, lacking)


def _method(login: Login, domain_key: DomainKey, kind: Kind, use: str, algorithm: Algorithm | None) -> WrapMethod | str:
    """Return how a kind is wrapped, or why it is not."""
    spec, usage = kind
    if usage is KeyUsage.ENCAPSULATE_DECAPSULATE:
        return "its public half must be an object in the token"
    tested = KeySpec.RSA_2048 if spec in RSA_BITS else spec
    reasons = []
    for way in _ways(spec):
        identity = MaterialIdentity(str(UUID(int=0)), secrets.token_bytes(16), tested, usage, algorithm, False)
        method = WrapMethod(way, use)
        try:
            login.connection.run(lambda session, i=identity, m=method: _try(login, session, i, domain_key, m))  # type: ignore[misc]
        except (CkrError, TokenError) as error:
            if isinstance(error, CkrError) and error.error_class in (ErrorClass.SESSION, ErrorClass.PIN):
                raise
            reasons.append(str(error))
        else:
            return method
        finally:
            login.wrapped.invalidate(identity.material_id)
            login.wrapped.destroy_retired()
    return "; ".join(dict.fromkeys(reasons))


def _ways(spec: KeySpec) -> tuple[WrapMechanism, ...]:
    """Return the mechanisms for a kind: RFC 3394 for secrets of whole blocks, RFC 5649 for everything else."""
    is_whole = not spec.is_asymmetric and HMAC_BITS.get(spec, 256) % 64 == 0
    return (KEY_WRAP,) if is_whole else PADDED_KEY_WRAPS


def _try(login: Login, session: Session, identity: MaterialIdentity, domain_key: DomainKey, method: WrapMethod) -> None:
    raw = login.connection.raw
    if identity.spec not in RSA_BITS:
        trial = None if identity.spec.is_asymmetric else _trial(login, session, identity)
        login.wrapping.generate(session, identity, domain_key, method, trial=trial)
        return
    pair = pair_of(identity.spec, identity.usage)
    private, public, public_key = rsa_test_pair(raw, session.handle, pair, changes=to_wrap(pair.private))
    try:
        login.wrapping.wrap(session, private, identity, domain_key, method, public_key=public_key, is_same=anything)
    finally:
        for handle in filter(None, (private, public)):
            raw.destroy(session.handle, handle)


def _trial(login: Login, session: Session, identity: MaterialIdentity) -> Trial:
    """Return the roles of a secret, and a use that shows if another one has the same value."""
    raw, sealed_by = login.connection.raw, identity.algorithm
    if sealed_by is None:
        algorithm = mac_algorithm_of(identity.spec)
        return (A.SIGN,), _same(lambda key: key_operations.mac(raw, session.handle, key, algorithm, _MESSAGE))
    if sealed_by is Algorithm.XAES_256_GCM:
        return (A.DERIVE,), _same(lambda key: _derived(raw, session.handle, key))

    def seal(key: int) -> IsSame:
        at = session.scratches[login.sealing.requests[sealed_by]]
        sealed = raw.gcm_encrypt(session.handle, key, None, _MESSAGE, _MESSAGE, at)
        return lambda other: login.sealing.open_by(session, other, sealed_by, sealed, _MESSAGE) == _MESSAGE

    return (A.ENCRYPT,), seal


def _same(use: Callable[[int], bytes]) -> Callable[[int], IsSame]:
    """Return a comparison of the results of `use`."""

    def compare(key: int) -> IsSame:
        expected = use(key)
        return lambda other: use(other) == expected

    return compare


def _derived(raw: RawModule, session: int, key: int) -> bytes:
    handle = raw.derive_by_ecb(session, key, bytes(_BLOCK), _READABLE)
    try:
        return raw.attributes(session, handle, (A.VALUE,))[A.VALUE]
    finally:
        raw.destroy(session, handle)
