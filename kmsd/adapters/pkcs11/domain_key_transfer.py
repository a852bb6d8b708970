"""Transfer of domain keys: the security officers of two tokens hand them on while they are session objects.

A locked domain key never leaves its token. So the sending token makes new ones, and wraps each for every receiving
token before it locks them. The receiving token has made an RSA pair of session objects for this one purpose. Each
domain key travels under an AES key of its own (CKM_RSA_AES_KEY_WRAP, in two steps: SoftHSM 2.6.1 does not have it).
"""

from __future__ import annotations

from contextlib import contextmanager
from hashlib import sha256
from hmac import compare_digest
from typing import TYPE_CHECKING, TypeVar

from pkcs11 import Attribute, KeyType, Mechanism, ObjectClass

from kmsd.adapters.pkcs11.ceremony import NewDomainKey, ceremony, translated
from kmsd.adapters.pkcs11.domain_key_profile import DOMAIN_KEY_BYTES, unwrapped_draft_template
from kmsd.adapters.pkcs11.key_pairs import rsa_parameters
from kmsd.adapters.pkcs11.return_codes import CkrError, ErrorClass
from kmsd.adapters.pkcs11.templates import PRIVATE_ROLES, PUBLIC_ROLES, SECRET_ROLES, only
from kmsd.adapters.pkcs11.wrap_mechanisms import (
    PADDED_KEY_WRAPS,
    RSA_STEP,
    TRANSPORT,
    modulus_and_exponent,
    public_key_of,
)
from kmsd.custody.domain_key_transfer import RSA_BITS, Copies, SentDomainKey, Transfer, checked_text, new_transfer
from kmsd.ports import MechanismMissing, TokenError, UnwrapFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from kmsd.adapters.pkcs11.ceremony import Ceremony
    from kmsd.adapters.pkcs11.cryptoki_types import Value, WrapMechanism
    from kmsd.adapters.pkcs11.settings import TokenSettings

A = Attribute
_OAEP = RSA_STEP[TRANSPORT]
_AES_KEY_GEN, _RSA_PAIR = int(Mechanism.AES_KEY_GEN), int(Mechanism.RSA_PKCS_KEY_PAIR_GEN)
_RSA_BYTES = RSA_BITS // 8
_WRAPPED_BYTES = _RSA_BYTES + DOMAIN_KEY_BYTES + 8
_PADDED = tuple(way.mechanism for way in PADDED_KEY_WRAPS)
T = TypeVar("T")


def send_domain_keys(settings: TokenSettings, so_pin: bytes, count: int, public_keys: Sequence[bytes]) -> Transfer:
    """Make `count` domain keys as `create_domain_keys` does, and return them wrapped for each of the public keys."""
    with ceremony(settings) as here, here.start_lock():
        here.login_security_officer(so_pin)
        drafts = here.make_drafts(count)
        copies = [_wrapped_for(here, public_key, drafts.values()) for public_key in public_keys]

        def sent(domain_key_id: bytes, domain_key: int) -> SentDomainKey:
            made = here.with_binding_key(domain_key_id, domain_key)
            check = here.binding_mac(domain_key, made.binding_key, checked_text(domain_key_id))
            return SentDomainKey(domain_key_id, made.binding_key, check)

        return new_transfer(here.serial, here.lock_in(drafts, sent), copies)


def _wrapped_for(here: Ceremony, public_key: bytes, drafts: Iterable[int]) -> Copies:
    recipient = here.raw.create(here.session, _recipient(public_key))
    wrapped = tuple(_wrapped(here, recipient, draft) for draft in drafts)
    here.raw.destroy(here.session, recipient)
    return Copies(sha256(public_key).digest(), wrapped)


def _wrapped(here: Ceremony, recipient: int, draft: int) -> bytes:
    key = here.raw.generate(here.session, _AES_KEY_GEN, {A.VALUE_LEN: DOMAIN_KEY_BYTES, **_carrier(A.WRAP)})
    try:
        head = here.raw.wrap(here.session, _OAEP, recipient, key)
        wrapped = head + _by_padded_wrap(lambda way: here.raw.wrap(here.session, way, key, draft))
    finally:
        here.raw.destroy(here.session, key)
    if len(wrapped) != _WRAPPED_BYTES:
        raise TokenError(f"a wrapped domain key has {_WRAPPED_BYTES} bytes, and the token made {len(wrapped)}")
    return wrapped


@contextmanager
def receiver(settings: TokenSettings, so_pin: bytes) -> Iterator[Receiver]:
    """Log the security officer in, and make an RSA pair for one transfer. It ends with the block.

    Raises `PinRefused`, `TokenUnavailable`, `TokenError`.
    """
    with ceremony(settings) as here:
        with here.start_lock():
            here.login_security_officer(so_pin)
        yield Receiver(here)


class Receiver:
    """The receiving side of one transfer, with the security officer logged in."""

    def __init__(self, here: Ceremony) -> None:
        self._here = here
        public = _public() | {int(kind): value for kind, value in rsa_parameters(RSA_BITS).items()}
        self._private, half = here.raw.generate_pair(here.session, _RSA_PAIR, public, _private())
        self.public_key = public_key_of(here.raw, here.session, half, RSA_BITS)
        """DER SubjectPublicKeyInfo, for which the other token wraps."""

    @property
    def serial(self) -> str:
        """Serial number of the token."""
        return self._here.serial

    def accept(self, transfer: Transfer) -> tuple[NewDomainKey, ...]:
        """Lock the domain keys of a transfer into the token. They are durable and proven on return.

        Each opens its binding key to the one that the sending token has. Once only: the security officer is logged out.
        Raises `UnwrapFailed` if they were not wrapped for this token, `PinRefused`, `TokenUnavailable`,
        `CustodyNotEnforced` and `TokenError`; then none of them is left.
        """
        here = self._here
        sent = {one.domain_key_id: one for one, _ in transfer.wrapped_for(self.public_key)}

        def accepted(domain_key_id: bytes, domain_key: int) -> NewDomainKey:
            binding_key, text = sent[domain_key_id].binding_key, checked_text(domain_key_id)
            try:
                mac = here.binding_mac(domain_key, binding_key, text)
            except CkrError as error:
                raise UnwrapFailed(f"the binding key does not open under the domain key ({error})") from error
            if not compare_digest(mac, sent[domain_key_id].check):
                raise UnwrapFailed("the domain key in this token is not that of the sending token")
            return NewDomainKey(domain_key_id, binding_key)

        with translated(), here.start_lock():
            copies = transfer.wrapped_for(self.public_key)
            return here.lock_in({one.domain_key_id: self._draft(wrapped) for one, wrapped in copies}, accepted)

    def _draft(self, wrapped: bytes) -> int:
        """Unwrap a domain key into a session object of the security officer."""
        raw, session = self._here.raw, self._here.session
        if len(wrapped) != _WRAPPED_BYTES:
            raise UnwrapFailed(f"a wrapped domain key has {_WRAPPED_BYTES} bytes, not {len(wrapped)}")
        head, rest = wrapped[:_RSA_BYTES], wrapped[_RSA_BYTES:]
        try:
            key = raw.unwrap(session, _OAEP, self._private, head, _unwrapped_carrier())
            return _by_padded_wrap(lambda way: raw.unwrap(session, way, key, rest, unwrapped_draft_template()))
        except CkrError as error:
            raise UnwrapFailed(f"the domain key cannot be unwrapped by this token ({error})") from error


def _by_padded_wrap(call: Callable[[WrapMechanism], T]) -> T:
    """Call with the first mechanism of padded key wrap that the token has."""
    for way in PADDED_KEY_WRAPS:
        try:
            return call(way)
        except CkrError as error:
            if error.error_class is not ErrorClass.MECHANISM:
                raise
    raise MechanismMissing("the token has no AES key wrap with padding")


def _carrier(role: Attribute) -> dict[int, Value]:
    """Return the template of the AES key under which one domain key travels: trusted, as the domain key demands it."""
    return {
        A.TRUSTED: True,
        A.TOKEN: False,
        A.PRIVATE: False,
        A.SENSITIVE: True,
        A.EXTRACTABLE: True,
        A.WRAP_WITH_TRUSTED: True,
        **_roles((role,), SECRET_ROLES),
        A.ALLOWED_MECHANISMS: _PADDED,
    }


def _unwrapped_carrier() -> dict[int, Value]:
    kind: dict[int, Value] = {A.CLASS: int(ObjectClass.SECRET_KEY), A.KEY_TYPE: int(KeyType.AES)}
    return {**kind, **_carrier(A.UNWRAP), A.EXTRACTABLE: False}


def _recipient(public_key: bytes) -> dict[int, Value]:
    modulus, exponent = modulus_and_exponent(public_key)
    return {
        A.CLASS: int(ObjectClass.PUBLIC_KEY),
        A.KEY_TYPE: int(KeyType.RSA),
        A.TRUSTED: True,
        **_public(),
        A.MODULUS: modulus,
        A.PUBLIC_EXPONENT: exponent,
    }


def _public() -> dict[int, Value]:
    return {A.TOKEN: False, A.PRIVATE: False, **_roles((A.WRAP,), PUBLIC_ROLES)}


def _private() -> dict[int, Value]:
    """Return the template of the receiving private key: the security officer cannot make private objects."""
    return {
        A.TOKEN: False,
        A.PRIVATE: False,
        A.SENSITIVE: True,
        A.EXTRACTABLE: False,
        **_roles((A.UNWRAP,), PRIVATE_ROLES),
    }


def _roles(granted: Iterable[Attribute], of: Iterable[Attribute]) -> dict[int, Value]:
    return {int(role): value for role, value in only(granted, of).items()}
