"""Keys of wrapped material: unwrapped for use, kept as session objects, and bound to their rows.

A row names the key that it belongs to, and C_UnwrapKey does not know of that. So a MAC by the binding key of the domain
key covers the whole row, and is verified before the material is unwrapped. It is verified again when the row differs
from the one that was unwrapped.

A key is kept until it is the least recently used of more than `count`, for at most `age` seconds after it was
unwrapped, until its material is destroyed (`invalidate`), until the token has no memory for another one, or until the
login ends. DisableKey and RevokeGrant do not end it: the state of the key and the caller's permission are checked
before each use. Rotation does not either: earlier material decrypts. One thread at a time unwraps; others that wait for
the same key then share it.
"""

from __future__ import annotations

from collections import OrderedDict
from hmac import compare_digest
from typing import TYPE_CHECKING

import msgspec
import structlog
from msgspec.structs import replace
from pkcs11 import Mechanism

from kmsd.adapters.pkcs11.binding_key import open_binding_key
from kmsd.adapters.pkcs11.cryptoki_types import WrapMechanism
from kmsd.adapters.pkcs11.domain_key_proof import prove_enforcement
from kmsd.adapters.pkcs11.handle_cache import Entry
from kmsd.adapters.pkcs11.held_objects import HeldObject, HeldObjects
from kmsd.adapters.pkcs11.return_codes import REFUSALS, Ckr, CkrError, ErrorClass
from kmsd.adapters.pkcs11.wrapped_templates import mismatches, packed_to_use
from kmsd.domain.material import WrappedMaterial
from kmsd.ports import TamperedMaterial

if TYPE_CHECKING:
    from collections.abc import Callable

    from kmsd.adapters.pkcs11.cryptoki import RawModule
    from kmsd.adapters.pkcs11.held_objects import ObjectSession
    from kmsd.adapters.pkcs11.objects import Objects
    from kmsd.adapters.pkcs11.session_pool import Session
    from kmsd.domain.domain_key import DomainKey
    from kmsd.domain.material import MaterialIdentity

log = structlog.get_logger(__name__)
_CMAC = int(Mechanism.AES_CMAC)
_MAC_LENGTH = 16
_BOUND_KEPT = 4096
"""Materials of which the MAC was made, or verified without unwrapping them."""


class HeldKey(HeldObject):
    """The unwrapped key of a material. Held from `WrappedKeys.hold` until `WrappedKeys.done`."""

    __slots__ = ("entry", "material", "unwrapped_at")

    def __init__(self, material: WrappedMaterial, handle: int, unwrapped_at: float) -> None:
        super().__init__(handle)
        self.material = material
        self.entry = Entry(handle=handle)
        self.unwrapped_at = unwrapped_at


class OpenDomainKey(msgspec.Struct, frozen=True):
    """Handles of a domain key and its binding key, valid in one login."""

    handle: int
    binding: int


class WrappedKeys(HeldObjects[HeldKey]):
    """Unwrapped keys of one login, and the domain keys that unwrap them."""

    def __init__(
        self,
        raw: RawModule,
        owner: ObjectSession,
        objects: Objects,
        *,
        count: int,
        age: float,
        clock: Callable[[], float],
    ) -> None:
        super().__init__(raw, owner)
        self._objects = objects
        self._count = count
        self._age = age
        self._clock = clock
        self._keys: OrderedDict[bytes, HeldKey] = OrderedDict()
        self._bound: OrderedDict[bytes, WrappedMaterial] = OrderedDict()
        self._domains: dict[tuple[bytes, bytes], OpenDomainKey] = {}
        self._extras_refused = False
        self.evictions = 0
        self.tampered = 0
        """Rows that were found changed."""

    def __len__(self) -> int:
        return len(self._keys)

    def has(self, material: WrappedMaterial) -> bool:
        """True if the key of this row is kept. It may end before its use."""
        held = self._keys.get(material.material_id)
        return held is not None and held.material == material

    def is_open(self, domain_key_id: bytes, binding_key: bytes) -> bool:
        """True if this login has used the domain key before."""
        return (domain_key_id, binding_key) in self._domains

    # --- using --------------------------------------------------------------------------------------

    def hold(self, session: Session, material: WrappedMaterial) -> HeldKey:
        """Return the key of a material, held; unwrap it if it is not kept.

        Raises `TamperedMaterial` if the row is not as it was bound, `NotFound` without domain key, and `CkrError`.
        """
        if (held := self._kept_key(material)) is not None:
            return held
        domain = self.domain(session, material.domain_key_id, material.binding_key)
        if self._bound.get(material.material_id) != material:
            self._verify(session, domain, material)
        with self._owner.lock:
            if (held := self._kept_key(material, again=True)) is not None:
                return held
            held = HeldKey(material, self._unwrap_or_evict(domain, material), self._clock())
            held.users = 1
        with self._lock:
            self._keep(held)
        self.destroy_retired()
        return held

    def _kept_key(self, material: WrappedMaterial, *, again: bool = False) -> HeldKey | None:
        """Return the kept key of this row, held; None if it must be unwrapped."""
        with self._lock:
            held = self._keys.get(material.material_id)
            if held is not None and (held.material is material or held.material == material):
                held.users += 1
                self.hits += 1
                if 2 * len(self._keys) > self._count:
                    self._keys.move_to_end(material.material_id)
                return held
            self.misses += not again
            return None

    def _keep(self, held: HeldKey) -> None:
        earlier = self._keys.get(held.material.material_id)
        if earlier is not None:
            # Of another row of the same material. A call that holds it can still finish.
            self._retire(earlier)
        self._keys[held.material.material_id] = held
        while len(self._keys) > self._count:
            self._evict()

    def _evict(self) -> None:
        self.evictions += 1
        self._retire(next(iter(self._keys.values())))

    def _unwrap_or_evict(self, domain: OpenDomainKey, material: WrappedMaterial) -> int:
        """Unwrap; if the token has no memory for the key, evict half of the kept ones and try once more."""
        try:
            return self._unwrap(domain, material)
        except CkrError as error:
            if error.rv not in (Ckr.DEVICE_MEMORY, Ckr.HOST_MEMORY):
                raise
            log.warning("token_memory_full", kept=len(self._keys))
        with self._lock:
            for _ in range((len(self._keys) + 1) // 2):
                self._evict()
        # The caller has the session: `destroy_retired` would wait for it.
        while self._retired:
            self._raw.destroy(self._owner.handle, self._retired.popleft().handle)
        return self._unwrap(domain, material)

    def _unwrap(self, domain: OpenDomainKey, material: WrappedMaterial) -> int:
        identity, way = material.identity, WrapMechanism(material.mechanism)
        extras = not self._extras_refused
        template = packed_to_use(identity.spec, identity.usage, identity.algorithm, extras=extras)
        try:
            return self._raw.unwrap(self._owner.handle, way, domain.handle, material.content, template)
        except CkrError as error:
            if error.error_class is ErrorClass.HANDLE:
                self._forget_domain(material.domain_key_id)
            if self._extras_refused or error.rv not in REFUSALS:
                raise
            return self._unwrap_without_extras(domain, material, error)

    def _unwrap_without_extras(self, domain: OpenDomainKey, material: WrappedMaterial, refusal: CkrError) -> int:
        """Unwrap without the optional attributes that the token refused.

        Raises `refusal` if the key differs from its role. The refusal then had another cause, and the next key is
        unwrapped with the optional attributes again.
        """
        session, way, identity = self._owner.handle, WrapMechanism(material.mechanism), material.identity
        template = packed_to_use(identity.spec, identity.usage, identity.algorithm, extras=False)
        handle = self._raw.unwrap(session, way, domain.handle, material.content, template)
        try:
            short = mismatches(self._raw, session, handle, identity)
        except BaseException:
            self._raw.destroy(session, handle)
            raise
        if short:
            self._raw.destroy(session, handle)
            raise refusal
        self._extras_refused = True
        return handle

    # --- binding ------------------------------------------------------------------------------------

    def domain(self, session: Session, domain_key_id: bytes, binding_key: bytes) -> OpenDomainKey:
        """Return a domain key with its binding key; the first use in a login proves that the token enforces it.

        Raises `NotFound`, `CustodyNotEnforced`, and `CkrError`.
        """
        name = domain_key_id, binding_key
        known = self._domains.get(name)
        if known is not None:
            return known
        handle = self._objects.entry(session, domain_key_id).handle
        prove_enforcement(self._raw, session.handle, handle)
        with self._owner.lock:
            if name not in self._domains:
                binding = open_binding_key(self._raw, self._owner.handle, handle, binding_key)
                self._domains[name] = OpenDomainKey(handle, binding)
            return self._domains[name]

    def prove(self, session: Session, domain_key_id: bytes, binding_key: bytes) -> None:
        """Prove again that the token enforces a domain key. Raises as `domain`."""
        self._forget_domain(domain_key_id)
        self.domain(session, domain_key_id, binding_key)

    def _forget_domain(self, domain_key_id: bytes) -> None:
        self._objects.invalidate(domain_key_id)
        self._domains = {name: domain for name, domain in self._domains.items() if name[0] != domain_key_id}

    def bind(
        self,
        session: Session,
        identity: MaterialIdentity,
        domain_key: DomainKey,
        wrapped: tuple[WrapMechanism, bytes],
        public_key: bytes,
    ) -> WrappedMaterial:
        """Return wrapped material with its MAC. Raises as `domain`."""
        domain = self.domain(session, domain_key.domain_key_id, domain_key.binding_key)
        way, content = wrapped
        unbound = WrappedMaterial(
            identity,
            domain_key.domain_key_id,
            domain_key.binding_key,
            way.mechanism,
            content,
            mac=b"",
            public_key=public_key,
        )
        bound = replace(unbound, mac=self._mac(session, domain, unbound))
        self._note_bound(bound)
        return bound

    def is_bound(self, material: WrappedMaterial) -> bool:
        """True if the MAC of this row was verified before."""
        with self._lock:
            held = self._keys.get(material.material_id)
            return (held is not None and held.material == material) or self._bound.get(material.material_id) == material

    def require_bound(self, session: Session, material: WrappedMaterial) -> None:
        """Verify the MAC of a row, unless that was done before. Raises as `hold`."""
        if self.is_bound(material):
            return
        self._verify(session, self.domain(session, material.domain_key_id, material.binding_key), material)
        self._note_bound(material)

    def _note_bound(self, material: WrappedMaterial) -> None:
        with self._lock:
            self._bound[material.material_id] = material
            if len(self._bound) > _BOUND_KEPT:
                self._bound.popitem(last=False)

    def _verify(self, session: Session, domain: OpenDomainKey, material: WrappedMaterial) -> None:
        if not compare_digest(self._mac(session, domain, material), material.mac):
            identity = material.identity
            self.tampered += 1
            log.error("wrapped_material_tampered", key=identity.key_id, material=identity.material_id.hex())
            raise TamperedMaterial(f"the wrapped material of the key {identity.key_id} is not what was bound to it")

    def _mac(self, session: Session, domain: OpenDomainKey, material: WrappedMaterial) -> bytes:
        return self._raw.sign(session.handle, domain.binding, _CMAC, material.bound_text())[:_MAC_LENGTH]

    # --- ending -------------------------------------------------------------------------------------

    def _forget(self, held: HeldKey) -> None:
        if self._keys.get(held.material.material_id) is held:
            del self._keys[held.material.material_id]

    def _kept(self) -> list[HeldKey]:
        return list(self._keys.values())

    def invalidate(self, material_id: bytes) -> None:
        """Retire the key of a material. `destroy_retired` destroys it."""
        with self._lock:
            self._bound.pop(material_id, None)
            held = self._keys.get(material_id)
            if held is not None:
                self._retire(held)

    def sweep(self) -> None:
        """Retire every key that was unwrapped more than `age` seconds ago."""
        with self._lock:
            now = self._clock()
            for held in [held for held in self._keys.values() if now - held.unwrapped_at >= self._age]:
                self._retire(held)

    def drop_all(self) -> None:
        """Retire every key and forget the domain keys: their session has ended."""
        super().drop_all()
        self._domains = {}
