"""Encryption and decryption of data: XAES-256-GCM (C2SP) computed in the token, its derived keys, and AES-256-GCM.

XAES-256-GCM: with L = AES-256 of 16 zero bytes under the key, K1 is L doubled in GF(2^128). The message key is
AES(K1 xor (00 01 58 00 || N[:12])) || AES(K1 xor (00 02 58 00 || N[:12])). The text is encrypted by AES-256-GCM under
the message key with nonce N[12:]. Both uses of AES are C_DeriveKey with CKM_AES_ECB_ENCRYPT_DATA, so the key itself
needs DERIVE and no other role. L is a readable 16-byte session secret that is destroyed at once. The message key is a
session object, SENSITIVE and not EXTRACTABLE.

Lifetime of derived keys: encryption draws 12 random bytes N[:12] from the token per process and object. It keeps the
derived key for at most `seal_messages` messages and `derived_key_age` seconds. N[12:] is random for each message, so
two messages share a nonce with probability below 2^-57 per prefix. Decryption keeps the most recently used derived
keys: at most `derived_keys`, each for at most `derived_key_age` seconds after it was derived. A derived key also ends
by `invalidate` (the object is destroyed, or its handle was found invalid) and with the login. One that ends while a
call uses it is destroyed when that call is done. The key objects belong to a session of their own, which stays open
until the login ends.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

from pkcs11 import Attribute, KeyType

from kmsd.adapters.pkcs11.cryptoki_types import pack
from kmsd.adapters.pkcs11.gcm_scratch import GIVEN_12, GIVEN_16
from kmsd.adapters.pkcs11.held_objects import HeldObject, HeldObjects
from kmsd.adapters.pkcs11.templates import session_key
from kmsd.domain.material import TAG_LENGTH, Algorithm
from kmsd.ports import NotAuthentic

if TYPE_CHECKING:
    from collections.abc import Callable

    from kmsd.adapters.pkcs11.cryptoki import RawModule
    from kmsd.adapters.pkcs11.gcm_scratch import IvRequest
    from kmsd.adapters.pkcs11.handle_cache import Entry
    from kmsd.adapters.pkcs11.held_objects import ObjectSession
    from kmsd.adapters.pkcs11.key_handles import KeyHandles
    from kmsd.adapters.pkcs11.session_pool import Session
    from kmsd.domain.material import KeyReference

PREFIX_LENGTH = 12
_BLOCK = 16
_L_TEMPLATE = pack(session_key(KeyType.GENERIC_SECRET, _BLOCK, (), readable=True))
_MESSAGE_KEY_TEMPLATE = pack(session_key(KeyType.AES, 32, (Attribute.ENCRYPT, Attribute.DECRYPT)))


class DerivedKey(HeldObject):
    """Message key in the token. Held from `DerivedKeys.for_…` or `derive` until `DerivedKeys.done`."""

    __slots__ = ("derived_at", "messages", "object_id", "prefix")

    def __init__(self, object_id: bytes, prefix: bytes, handle: int, derived_at: float) -> None:
        super().__init__(handle)
        self.object_id = object_id
        self.prefix = prefix
        self.derived_at = derived_at
        self.messages = 0


class DerivedKeys(HeldObjects[DerivedKey]):
    """Derived keys of one login."""

    def __init__(
        self, raw: RawModule, owner: ObjectSession, *, messages: int, age: float, count: int, clock: Callable[[], float]
    ) -> None:
        super().__init__(raw, owner)
        self._messages = messages
        self._age = age
        self._count = count
        self._clock = clock
        self._opening: OrderedDict[tuple[bytes, bytes], DerivedKey] = OrderedDict()
        self._sealing: dict[bytes, DerivedKey] = {}

    def __len__(self) -> int:
        return len(self._opening)

    def has(self, base: KeyReference, prefix: bytes | None) -> bool:
        """True if a key is kept to decrypt this prefix, or to encrypt (`prefix` None). It may expire before its use."""
        object_id = base if isinstance(base, bytes) else base.material_id
        if prefix is None:
            key = self._sealing.get(object_id)
            return key is not None and key.messages < self._messages
        return (object_id, prefix) in self._opening

    # --- using --------------------------------------------------------------------------------------

    def for_sealing(self, object_id: bytes) -> DerivedKey | None:
        """Return the key for the next message of this object, held; None if one must be derived."""
        with self._lock:
            key = self._sealing.get(object_id)
            if key is None:
                self.misses += 1
                return None
            if key.messages >= self._messages or self._clock() - key.derived_at >= self._age:
                del self._sealing[object_id]
                self.misses += 1
                return None
            key.messages += 1
            self._hold(key)
            return key

    def for_opening(self, object_id: bytes, prefix: bytes) -> DerivedKey | None:
        """Return the key that decrypts messages with this nonce prefix, held; None if it must be derived."""
        with self._lock:
            key = self._opening.get((object_id, prefix))
            if key is None:
                self.misses += 1
                return None
            if self._clock() - key.derived_at >= self._age:
                self._retire(key)
                self.misses += 1
                return None
            self._hold(key)
            return key

    def _hold(self, key: DerivedKey) -> None:
        key.users += 1
        self.hits += 1
        # Keep LRU order only above half of the capacity: keys that are not used from then on are evicted first.
        if 2 * len(self._opening) > self._count:
            self._opening.move_to_end((key.object_id, key.prefix))

    # --- deriving -----------------------------------------------------------------------------------

    def derive(
        self, object_id: bytes, entry: Entry, prefix: bytes, *, to_seal: bool, on_trial: bool = False
    ) -> DerivedKey:
        """Derive the message key for a nonce prefix and keep it; it is held on return. Raises `CkrError`.

        With `on_trial` the key is kept only if the caller calls `keep` while it holds the key. A ciphertext that is not
        authentic must not evict the derived key of one that is.
        """
        with self._owner.lock:
            if entry.subkey is None:
                entry.subkey = self._subkey(entry.handle)
            blocks = b"".join(bytes((0, i, 0x58, 0)) + prefix for i in (1, 2))
            data = _xor(blocks, entry.subkey * 2)
            handle = self._raw.derive_by_ecb(self._owner.handle, entry.handle, data, _MESSAGE_KEY_TEMPLATE)
        key = DerivedKey(object_id, prefix, handle, self._clock())
        with self._lock:
            key.users = 1
            key.retired = on_trial
            if not on_trial:
                self._keep(key, to_seal=to_seal)
        self.destroy_retired()
        return key

    def keep(self, key: DerivedKey) -> None:
        """Keep a held key that was derived on trial."""
        with self._lock:
            key.retired = False
            self._keep(key, to_seal=False)

    def _keep(self, key: DerivedKey, *, to_seal: bool) -> None:
        twin = self._opening.get((key.object_id, key.prefix))
        if twin is not None:
            # Another thread derived the same key meanwhile. A call that holds it can still finish.
            self._retire(twin)
        self._opening[key.object_id, key.prefix] = key
        if to_seal:
            key.messages = 1
            self._sealing[key.object_id] = key
        while len(self._opening) > self._count:
            self._retire(next(iter(self._opening.values())))

    def _subkey(self, base: int) -> bytes:
        handle = self._raw.derive_by_ecb(self._owner.handle, base, bytes(_BLOCK), _L_TEMPLATE)
        try:
            value = self._raw.attributes(self._owner.handle, handle, (Attribute.VALUE,))
        finally:
            self._raw.destroy(self._owner.handle, handle)
        return double(value[Attribute.VALUE])

    # --- ending -------------------------------------------------------------------------------------

    def _forget(self, held: DerivedKey) -> None:
        self._opening.pop((held.object_id, held.prefix), None)
        if self._sealing.get(held.object_id) is held:
            del self._sealing[held.object_id]

    def _kept(self) -> list[DerivedKey]:
        return list(self._opening.values())

    def invalidate(self, object_id: bytes) -> None:
        """Retire every derived key of the object. `destroy_retired` destroys them."""
        with self._lock:
            for key in [key for key in self._opening.values() if key.object_id == object_id]:
                self._retire(key)

    def sweep(self) -> None:
        """Retire every key that is older than `age`."""
        with self._lock:
            now = self._clock()
            for key in [key for key in self._opening.values() if now - key.derived_at >= self._age]:
                self._retire(key)


# --- The data path ----------------------------------------------------------------------------------


def well_formed(algorithm: Algorithm, sealed: bytes, aad: bytes) -> None:
    """Raise `NotAuthentic` if the input is too short or has no associated data, on which SoftHSM 2.6.1 crashes."""
    if not aad or len(sealed) < algorithm.nonce_length + TAG_LENGTH:
        raise NotAuthentic("too short to be a sealed text, or without associated data")


class Sealing:
    """Encryption and decryption with the keys of one login."""

    def __init__(self, raw: RawModule, keys: KeyHandles, derived: DerivedKeys) -> None:
        self._raw = raw
        self._keys = keys
        self._derived = derived
        self.requests: dict[Algorithm, IvRequest] = {
            Algorithm.XAES_256_GCM: GIVEN_12,
            Algorithm.AES_256_GCM: GIVEN_12,
            Algorithm.AES_256_GCM_IV16: GIVEN_16,
        }
        """Algorithms of the token for encryption. The self-tests at start (`aead_self_tests`) find them; a later login
        takes them over."""

    def seal(self, session: Session, key: KeyReference, algorithm: Algorithm, plaintext: bytes, aad: bytes) -> bytes:
        """Encrypt. Return nonce, ciphertext and tag, joined."""
        raw, handle, at = self._raw, session.handle, session.scratch
        if (request := self.requests[algorithm]) is not GIVEN_12:
            at = session.scratches[request]
        if algorithm is not Algorithm.XAES_256_GCM:
            with self._keys.held(session, key) as entry:
                return raw.gcm_encrypt(handle, entry.handle, None, plaintext, aad, at)
        derived, key_id = self._derived, key if isinstance(key, bytes) else key.material_id
        message_key = derived.for_sealing(key_id)
        if message_key is None:
            with self._keys.held(session, key) as entry:
                message_key = derived.derive(key_id, entry, raw.random(handle, PREFIX_LENGTH), to_seal=True)
        try:
            return message_key.prefix + raw.gcm_encrypt(handle, message_key.handle, None, plaintext, aad, at)
        finally:
            derived.done(message_key)

    def open_by(self, session: Session, handle: int, algorithm: Algorithm, sealed: bytes, aad: bytes) -> bytes:
        """Decrypt by an algorithm that derives no key, with the key of a handle."""
        at = session.scratch if algorithm is Algorithm.AES_256_GCM else session.scratches[GIVEN_16]
        cut = algorithm.nonce_length
        return self._raw.gcm_decrypt(session.handle, handle, sealed[:cut], sealed[cut:], aad, at)

    def open(self, session: Session, key: KeyReference, algorithm: Algorithm, sealed: bytes, aad: bytes) -> bytes:
        """Decrypt input that passed `well_formed`."""
        if algorithm is not Algorithm.XAES_256_GCM:
            with self._keys.held(session, key) as entry:
                return self.open_by(session, entry.handle, algorithm, sealed, aad)
        raw, cut = self._raw, algorithm.nonce_length
        iv, text = sealed[PREFIX_LENGTH:cut], sealed[cut:]
        prefix, derived = sealed[:PREFIX_LENGTH], self._derived
        key_id = key if isinstance(key, bytes) else key.material_id
        known = derived.for_opening(key_id, prefix)
        message_key = known
        if message_key is None:
            with self._keys.held(session, key) as entry:
                message_key = derived.derive(key_id, entry, prefix, to_seal=False, on_trial=True)
        try:
            plaintext = raw.gcm_decrypt(session.handle, message_key.handle, iv, text, aad, session.scratch)
            if known is None:
                derived.keep(message_key)
        finally:
            derived.done(message_key)
        if known is None:
            derived.destroy_retired()
        return plaintext


def double(block: bytes) -> bytes:
    """Multiply `block` by x in GF(2^128), as for CMAC's first subkey (NIST SP 800-38B section 6.1)."""
    value = int.from_bytes(block, "big") << 1
    if value >> 128:
        value = (value & ((1 << 128) - 1)) ^ 0x87
    return value.to_bytes(_BLOCK, "big")


def _xor(left: bytes, right: bytes) -> bytes:
    return (int.from_bytes(left, "big") ^ int.from_bytes(right, "big")).to_bytes(len(left), "big")
