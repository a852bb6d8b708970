"""Methods of the WrappedCustody port."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from kmsd.adapters.pkcs11.inline_policy import GENERATION
from kmsd.adapters.pkcs11.wrap_self_tests import WrappableKinds, test_wrapping
from kmsd.domain.key_spec import KeySpec, KeyUsage
from kmsd.domain.material import OwnUsage
from kmsd.ports import MechanismMissing, TamperedMaterial

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from kmsd.adapters.pkcs11.circuit_breaker import TokenLink
    from kmsd.adapters.pkcs11.dispatcher import CallDispatcher
    from kmsd.adapters.pkcs11.import_calls import Imports
    from kmsd.adapters.pkcs11.key_calls import KeyCalls
    from kmsd.adapters.pkcs11.key_import import ImportSession
    from kmsd.adapters.pkcs11.login import Login
    from kmsd.adapters.pkcs11.session_pool import Session
    from kmsd.adapters.pkcs11.settings import TokenSettings
    from kmsd.adapters.pkcs11.wrap_mechanisms import WrappedValue
    from kmsd.adapters.pkcs11.wrapping import WrapMethod
    from kmsd.domain.domain_key import DomainKey
    from kmsd.domain.material import Algorithm, MaterialIdentity, WrappedMaterial
    from kmsd.ports import Wrapped


class WrapCalls(msgspec.Struct):
    """Wrapped material in one token, specified in `kmsd.ports.WrappedCustody`. All may be called concurrently."""

    settings: TokenSettings
    calls: CallDispatcher
    link: TokenLink
    keys: KeyCalls
    imports: Imports
    algorithms: frozenset[Algorithm]
    _tested: dict[bytes, WrappableKinds] = {}
    """Result of the self-tests by domain key."""
    _testing: asyncio.Lock = msgspec.field(default_factory=asyncio.Lock)

    async def prove(self, domain_key: DomainKey) -> None:
        def prove(login: Login) -> None:
            login.connection.run(
                lambda session: login.wrapped.prove(session, domain_key.domain_key_id, domain_key.binding_key)
            )

        await self.calls.on_thread("prove_domain_key", domain_key.domain_key_id, prove)

    async def unwrappable(self, domain_key: DomainKey) -> Mapping[tuple[KeySpec, KeyUsage], str]:
        return (await self._kinds(domain_key)).lacking

    async def _kinds(self, domain_key: DomainKey) -> WrappableKinds:
        """Return the result of the self-tests; the first call runs them."""
        name = domain_key.domain_key_id

        def test(login: Login) -> WrappableKinds:
            found = test_wrapping(login, domain_key, self.algorithms, offers)
            # A token that went away fails every test without lacking anything.
            self.link.verify_token(login)
            return found

        if name not in self._tested:
            offers = (await self.keys.tested()).offers
            async with self._testing:
                if name not in self._tested:
                    deadline = self.settings.start_deadline
                    self._tested[name] = await self.calls.on_thread("test_wrapping", name, test, deadline=deadline)
        return self._tested[name]

    async def _method(self, identity: MaterialIdentity, domain_key: DomainKey) -> WrapMethod:
        """Return how material is wrapped. Raises `MechanismMissing`."""
        kinds = await self._kinds(domain_key)
        usage = KeyUsage.ENCRYPT_DECRYPT if isinstance(identity.usage, OwnUsage) else identity.usage
        kind = identity.spec, usage
        if (method := kinds.methods.get(kind)) is None:
            raise MechanismMissing(kinds.lacking.get(kind, f"{identity.spec} {usage}"))
        return method

    async def generate(self, identity: MaterialIdentity, domain_key: DomainKey) -> WrappedMaterial:
        method = await self._method(identity, domain_key)

        def make(login: Login, session: Session) -> WrappedMaterial:
            return login.wrapping.generate(session, identity, domain_key, method)

        if not identity.spec.is_asymmetric:
            return await self.calls.generation(domain_key, make)

        def make_pair(login: Login) -> WrappedMaterial:
            return login.connection.run(partial(make, login))

        return await self.calls.on_thread(GENERATION, domain_key.domain_key_id, make_pair)

    async def import_material(
        self, wrapped: Wrapped, mark: bytes, expected: bytes, *, identity: MaterialIdentity, domain_key: DomainKey
    ) -> WrappedMaterial:
        method = await self._method(identity, domain_key)
        taken: list[WrappedMaterial] = []

        def store(login: Login, session: ImportSession, value: WrappedValue, public_key: bytes) -> None:
            taken.append(login.wrapping.take_in(session, value, identity, domain_key, method, public_key=public_key))

        if identity.spec is KeySpec.SYMMETRIC_DEFAULT:
            await self.imports.unwrap_key(wrapped, mark, expected, store)
        else:
            kind = identity.spec, KeyUsage(identity.usage)
            await self.imports.import_key(wrapped, kind, mark, expected, store)
        return taken[-1]

    async def rewrap(
        self, materials: Sequence[WrappedMaterial], domain_key: DomainKey
    ) -> Sequence[WrappedMaterial | TamperedMaterial]:
        def rewrap_one(login: Login, session: Session, material: WrappedMaterial) -> WrappedMaterial | TamperedMaterial:
            try:
                return login.wrapping.rewrap(session, material, domain_key)
            except TamperedMaterial as error:
                return error

        def rewrap_all(login: Login) -> Sequence[WrappedMaterial | TamperedMaterial]:
            return login.connection.run(lambda session: [rewrap_one(login, session, one) for one in materials])

        return await self.calls.on_thread("rewrap", domain_key.domain_key_id, rewrap_all)

    async def require_bound(self, material: WrappedMaterial) -> None:
        login = self.link.login
        if login is not None and login.wrapped.is_bound(material):
            return

        def verify(login: Login) -> None:
            login.connection.run(lambda session: login.wrapped.require_bound(session, material))

        await self.calls.on_thread("verify_wrapped", material, verify)
