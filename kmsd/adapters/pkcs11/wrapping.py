"""Making wrapped material: generation or import as a session object, wrapping under a domain key, and proof.

The object is sensitive, and only a trusted key wraps it. It is destroyed before the wrapped material is returned, and
nothing is written to the token. The wrapped material is then unwrapped as for any use. Its attributes are read back,
and a private key is used once, so that what enters the database is known to work.
"""

from __future__ import annotations

from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

import msgspec
from pkcs11 import Attribute, Mechanism

from kmsd.adapters.pkcs11 import pair_proofs
from kmsd.adapters.pkcs11.cryptoki_types import WrapMechanism, pack
from kmsd.adapters.pkcs11.expectations import WrongAnswer
from kmsd.adapters.pkcs11.key_pairs import MAC_KEYS, pair_of, session_pair
from kmsd.adapters.pkcs11.public_keys import PUBLIC_KEY_ATTRIBUTES, spki_of
from kmsd.adapters.pkcs11.templates import SEALING
from kmsd.adapters.pkcs11.wrapped_templates import mismatches, profile_of, to_wrap
from kmsd.domain.material import OwnUsage
from kmsd.ports import TokenError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kmsd.adapters.pkcs11.cryptoki import RawModule
    from kmsd.adapters.pkcs11.cryptoki_types import Packed
    from kmsd.adapters.pkcs11.key_import import ImportSession
    from kmsd.adapters.pkcs11.session_pool import Session
    from kmsd.adapters.pkcs11.wrap_mechanisms import WrappedValue
    from kmsd.adapters.pkcs11.wrapped_keys import WrappedKeys
    from kmsd.domain.domain_key import DomainKey
    from kmsd.domain.key_spec import KeySpec, KeyUsage
    from kmsd.domain.material import Algorithm, MaterialIdentity, WrappedMaterial

    IsSame = Callable[[int], bool]
    """Returns whether the key of a handle is the one that was expected."""
    Trial = tuple[tuple[Attribute, ...], Callable[[int], IsSame]]
    """For self-tests: roles of the generated secret, and its use, which is repeated with the unwrapped one."""

A = Attribute
_AES_KEY, _GENERIC_SECRET = int(Mechanism.AES_KEY_GEN), int(Mechanism.GENERIC_SECRET_KEY_GEN)


class WrapMethod(msgspec.Struct, frozen=True):
    """Mechanism that wraps one kind of material, as the self-tests have found it."""

    way: WrapMechanism
    algorithm: str = ""
    """The algorithm of the use that proves a private key; empty for a secret."""


class Wrapping:
    """Makes wrapped material in one login. Methods raise `TokenError` and `CkrError`."""

    def __init__(self, raw: RawModule, keys: WrappedKeys) -> None:
        self._raw = raw
        self._keys = keys

    def generate(
        self,
        session: Session,
        identity: MaterialIdentity,
        domain_key: DomainKey,
        method: WrapMethod,
        *,
        trial: Trial | None = None,
    ) -> WrappedMaterial:
        """Generate key material, and return it wrapped, bound and proven."""
        roles = () if trial is None else trial[0]
        with self._generated(session, identity, roles) as (handle, public_key):
            is_same = anything if trial is None else trial[1](handle)
            return self.wrap(session, handle, identity, domain_key, method, public_key=public_key, is_same=is_same)

    @contextmanager
    def _generated(
        self, session: Session, identity: MaterialIdentity, roles: tuple[Attribute, ...]
    ) -> Iterator[tuple[int, bytes]]:
        """Yield the handle of a generated object, and the public key of a pair; destroy them at the end."""
        made = []
        try:
            if identity.spec.is_asymmetric:
                template = to_wrap(profile_of(identity.spec, identity.usage, identity.algorithm), roles)
                pair = pair_of(identity.spec, identity.usage)
                public_template, _ = session_pair(pair)
                private, public = self._raw.generate_pair(session.handle, pair.generation, public_template, template)
                made += [private, public]
                public_key = spki_of(self._raw.attributes(session.handle, public, PUBLIC_KEY_ATTRIBUTES))
            else:
                mechanism = _GENERIC_SECRET if identity.algorithm is None else _AES_KEY
                packed = _secret_template(identity.spec, identity.usage, identity.algorithm, roles)
                made.append(self._raw.generate(session.handle, mechanism, packed))
                public_key = b""
            yield made[0], public_key
        finally:
            for handle in made:
                self._raw.destroy(session.handle, handle)

    def take_in(
        self,
        session: ImportSession,
        wrapped: WrappedValue,
        identity: MaterialIdentity,
        domain_key: DomainKey,
        method: WrapMethod,
        *,
        public_key: bytes,
    ) -> WrappedMaterial:
        """Return imported material, which was proven before, wrapped, bound and proven."""
        template = to_wrap(profile_of(identity.spec, identity.usage, identity.algorithm))
        handle = session.unwrap(wrapped, template)
        if handle is None:
            raise TokenError("the token does not unwrap again what it has unwrapped before")
        return self.wrap(session.session, handle, identity, domain_key, method, public_key=public_key, is_same=anything)

    def wrap(
        self,
        session: Session,
        handle: int,
        identity: MaterialIdentity,
        domain_key: DomainKey,
        method: WrapMethod,
        *,
        public_key: bytes,
        is_same: IsSame,
    ) -> WrappedMaterial:
        """Return the key of a handle wrapped, bound and proven."""
        domain = self._keys.domain(session, domain_key.domain_key_id, domain_key.binding_key)
        content = self._raw.wrap(session.handle, method.way, domain.handle, handle)
        material = self._keys.bind(session, identity, domain_key, (method.way, content), public_key)
        try:
            self._prove(session, material, method, is_same)
        except BaseException:
            self._keys.invalidate(material.material_id)
            raise
        return material

    def _prove(self, session: Session, material: WrappedMaterial, method: WrapMethod, is_same: IsSame) -> None:
        """Unwrap material as for a use, read its attributes back, and use a private key. It then stays unwrapped."""
        held = self._keys.hold(session, material)
        try:
            identity = material.identity
            if short := mismatches(self._raw, session.handle, held.handle, identity):
                name = profile_of(identity.spec, identity.usage, identity.algorithm).name
                raise TokenError(f"the token unwrapped a {name} key that falls short: {'; '.join(short)}")
            if not is_same(held.handle):
                raise TokenError("the unwrapped key is not the one that was wrapped")
            if method.algorithm and not isinstance(identity.usage, OwnUsage):
                use = identity.usage, method.algorithm
                pair_proofs.prove(self._raw, session.handle, held.handle, material.public_key, use)
        except WrongAnswer as error:
            raise TokenError("the unwrapped private key does not belong to the public key") from error
        finally:
            self._keys.done(held)

    def rewrap(self, session: Session, material: WrappedMaterial, domain_key: DomainKey) -> WrappedMaterial:
        """Return material wrapped under another domain key, and bound to it. It stays in the token meanwhile.

        Raises `TamperedMaterial` before anything else.
        """
        self._keys.require_bound(session, material)
        identity, way = material.identity, WrapMechanism(material.mechanism)
        old = self._keys.domain(session, material.domain_key_id, material.binding_key)
        new = self._keys.domain(session, domain_key.domain_key_id, domain_key.binding_key)
        template = to_wrap(profile_of(identity.spec, identity.usage, identity.algorithm))
        handle = self._raw.unwrap(session.handle, way, old.handle, material.content, template)
        try:
            content = self._raw.wrap(session.handle, way, new.handle, handle)
        finally:
            self._raw.destroy(session.handle, handle)
        return self._keys.bind(session, identity, domain_key, (way, content), material.public_key)


def anything(_: int) -> bool:
    """Expect no particular key."""
    return True


@cache
def _secret_template(
    spec: KeySpec, usage: KeyUsage, algorithm: Algorithm | None, roles: tuple[Attribute, ...]
) -> Packed:
    """Return the template of a secret that is generated to be wrapped, packed once."""
    role = MAC_KEYS[spec] if algorithm is None else SEALING[algorithm]
    length: Any = role.proofs[A.VALUE_LEN]
    return pack({**to_wrap(profile_of(spec, usage, algorithm), roles), A.VALUE_LEN: length})
