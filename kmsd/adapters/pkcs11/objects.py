"""Creation, verification, listing and destruction of the daemon's objects in the token."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any

import structlog
from msgspec.structs import replace
from pkcs11 import Attribute, Mechanism, ObjectClass

from kmsd.adapters.pkcs11.cryptoki_types import number
from kmsd.adapters.pkcs11.handle_cache import Entry, Handles, NotFound
from kmsd.adapters.pkcs11.key_pairs import MAC_KEYS, session_pair
from kmsd.adapters.pkcs11.public_keys import PUBLIC_KEY_ATTRIBUTES, spki_of
from kmsd.adapters.pkcs11.return_codes import REFUSALS, Ckr, CkrError
from kmsd.adapters.pkcs11.roles import IDENTITY, attribute_mismatches, attributes_of, role_of
from kmsd.adapters.pkcs11.templates import KINDS, OBJECT_ID_LENGTH, SEALING
from kmsd.ports import ObjectReport, TokenError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from kmsd.adapters.pkcs11.cryptoki_types import Value
    from kmsd.adapters.pkcs11.key_pairs import KeyPair
    from kmsd.adapters.pkcs11.session_pool import Session, SessionPool
    from kmsd.adapters.pkcs11.softhsm_generation import SoftHsmGeneration
    from kmsd.adapters.pkcs11.templates import ObjectProfile
    from kmsd.adapters.pkcs11.wrap_mechanisms import WrappedValue
    from kmsd.domain.key_spec import KeySpec
    from kmsd.domain.material import Algorithm

    _Generate = Callable[[Mapping[Attribute, Value]], "Entry"]

log = structlog.get_logger(__name__)

_DESTROY_CHECKS = 50
_AES_KEY = int(Mechanism.AES_KEY_GEN)
_GENERIC_SECRET = int(Mechanism.GENERIC_SECRET_KEY_GEN)


class AttributeMismatch(TokenError):
    """A created object lacks an attribute that its role requires; it has been destroyed."""


class Objects(Handles):
    """Objects that carry the daemon's label, with handles valid in one login."""

    def __init__(self, connection: SessionPool, label: str, generation: SoftHsmGeneration, *, patience: float) -> None:
        super().__init__(connection, label, generation, patience=patience)
        self._extras_refused = False
        self._copies_refused = False
        self._unfinished: set[bytes] = set()
        """Ids whose creation started and is not known to have succeeded. Few: the core chooses a new id each time."""

    # --- creating -----------------------------------------------------------------------------------

    def create_encryption_key(self, session: Session, object_id: bytes, algorithm: Algorithm) -> None:
        """Generate and verify an AES-256 object. Destroys it and raises `TokenError` if it differs from its role."""
        self._create_secret(session, object_id, SEALING[algorithm], _AES_KEY)

    def create_mac_key(self, session: Session, object_id: bytes, spec: KeySpec) -> None:
        """Generate and verify a MAC key, as `create_encryption_key` does."""
        self._create_secret(session, object_id, MAC_KEYS[spec], _GENERIC_SECRET)

    def _create_secret(self, session: Session, object_id: bytes, role: ObjectProfile, mechanism: int) -> None:
        length: Any = role.proofs[Attribute.VALUE_LEN]

        def generate(extras: Mapping[Attribute, Value]) -> Entry:
            names = self._names(object_id)
            template = {**names, int(Attribute.VALUE_LEN): length, **_numbered(role.template, extras)}
            return Entry(handle=self._raw.generate(session.handle, mechanism, template))

        self._entries[object_id] = self._create_verified(session, object_id, (role,), generate, new_id=True)

    def create_pair(self, session: Session, object_id: bytes, pair: KeyPair) -> bytes:
        """Generate and verify a key pair, as `create_encryption_key` does. Return its DER SubjectPublicKeyInfo."""
        entry = self._copied_pair(session, object_id, pair) if pair.is_slow and not self._copies_refused else None
        if entry is None:
            generate = self._generated_pair(session, object_id, pair)
            entry = self._create_verified(session, object_id, (pair.private, pair.public), generate, new_id=True)
        try:
            public_key = self._public_key(session, entry.public)
        except TokenError:
            with self._search_lock():
                self._destroy_leftovers(session, object_id)
            raise
        self._entries[object_id] = entry
        return public_key

    def _copied_pair(self, session: Session, object_id: bytes, pair: KeyPair) -> Entry | None:
        """Generate a pair of session objects and copy them to the token; None if the token's copies are not usable.

        Finding RSA primes takes seconds. During that time other threads may hold `Module.catalogue`.
        """
        draft = self._draft_of_pair(session, pair)
        try:
            copy = self._copied(session, object_id, draft)
            return self._create_verified(session, object_id, (pair.private, pair.public), copy, new_id=True)
        except (CkrError, AttributeMismatch) as error:
            if isinstance(error, CkrError) and error.rv not in REFUSALS:
                raise
            # NSS loses CKA_ALWAYS_SENSITIVE in copies; other modules refuse to copy.
            log.info("token_copies_refused", reason=str(error))
            self._copies_refused = True
            return None
        finally:
            for handle in draft:
                self._raw.destroy(session.handle, handle)

    def _draft_of_pair(self, session: Session, pair: KeyPair) -> tuple[int, int]:
        public, private = session_pair(pair)
        loose: dict[int, Value] = {int(Attribute.MODIFIABLE): True}
        narrow = {int(Attribute.ALLOWED_MECHANISMS): pair.private.where_allowed[Attribute.ALLOWED_MECHANISMS]}
        try:
            return self._raw.generate_pair(session.handle, pair.generation, public | loose, private | loose | narrow)
        except CkrError as error:
            if error.rv not in REFUSALS:
                raise
            return self._raw.generate_pair(session.handle, pair.generation, public | loose, private | loose)

    def _copied(self, session: Session, object_id: bytes, draft: tuple[int, int]) -> _Generate:
        def generate(_: Mapping[Attribute, Value]) -> Entry:
            # CKA_MODIFIABLE last, as in `unwrap`.
            lasting = self._names(object_id) | {int(Attribute.TOKEN): True}
            lasting[Attribute.MODIFIABLE] = False
            private, public = (self._raw.copy(session.handle, half, lasting) for half in draft)
            return Entry(handle=private, public=public)

        return generate

    def _generated_pair(self, session: Session, object_id: bytes, pair: KeyPair) -> _Generate:
        def generate(extras: Mapping[Attribute, Value]) -> Entry:
            public, private = session_pair(pair)
            lasting: dict[int, Value] = {**self._names(object_id), Attribute.TOKEN: True}
            public |= lasting | _numbered(_of_role(extras, pair.public))
            private |= lasting | _numbered(extras)
            halves = self._raw.generate_pair(session.handle, pair.generation, public, private)
            return Entry(handle=halves[0], public=halves[1])

        return generate

    def unwrap(self, session: Session, object_id: bytes, role: ObjectProfile, wrapped: WrappedValue) -> None:
        """Create a secret from wrapped material, and verify it."""

        def unwrap(extras: Mapping[Attribute, Value]) -> Entry:
            template = self._template(object_id, role, extras)
            return Entry(handle=self._raw.unwrap(session.handle, *wrapped[:3], template))

        self._entries[object_id] = self._create_verified(session, object_id, (role,), unwrap)

    def unwrap_pair(
        self,
        session: Session,
        object_id: bytes,
        pair: KeyPair,
        wrapped: WrappedValue,
        public_key: Mapping[Attribute, Value],
    ) -> None:
        """Create a private key from wrapped material and its public half from `public_key`, and verify both."""

        def unwrap(extras: Mapping[Attribute, Value]) -> Entry:
            private = self._template(object_id, pair.private, extras)
            shown = {**_of_role(extras, pair.public), **public_key, Attribute.DERIVE: False}
            public = self._template(object_id, pair.public, shown)
            handle = self._raw.unwrap(session.handle, *wrapped[:3], private)
            return Entry(handle=handle, public=self._raw.create(session.handle, public))

        self._entries[object_id] = self._create_verified(session, object_id, (pair.private, pair.public), unwrap)

    def _template(self, object_id: bytes, role: ObjectProfile, extras: Mapping[Attribute, Value]) -> dict[int, Value]:
        template: dict[int, Value] = {
            **self._names(object_id),
            int(Attribute.CLASS): int(role.object_class),
            int(Attribute.KEY_TYPE): int(role.key_type),
            **_numbered(role.template, extras),
        }
        # CKA_MODIFIABLE last: SoftHSM 2.6.1 sets attributes one by one, and refuses any after this one.
        template[Attribute.MODIFIABLE] = template.pop(Attribute.MODIFIABLE)
        return template

    def _names(self, object_id: bytes) -> dict[int, Value]:
        return {Attribute.ID: object_id, Attribute.LABEL: self._label_bytes}

    def _create_verified(
        self,
        session: Session,
        object_id: bytes,
        roles: tuple[ObjectProfile, ...],
        generate: _Generate,
        *,
        new_id: bool = False,
    ) -> Entry:
        with self._search_lock():
            if len(object_id) != OBJECT_ID_LENGTH or type(object_id) is not bytes:
                raise TokenError("an object id is 16 bytes")
            # A caller that retries after a timeout must not create a second object of the id, nor destroy the first.
            # Ids are 16 random bytes: a new one needs no search, which takes SoftHSM 14 us per object.
            is_known = object_id in self._unfinished or object_id in self._entries
            if (is_known or not new_id) and self._find(session, {Attribute.ID: object_id}):
                raise TokenError(f"an object has the id {object_id.hex()} already")
            self._unfinished.add(object_id)
            extras = {} if self._extras_refused else roles[0].where_allowed
            try:
                try:
                    entry = generate(extras)
                except CkrError as error:
                    if not extras or error.rv not in REFUSALS:
                        raise
                    self._destroy_leftovers(session, object_id)
                    entry = self._create_without_extras(session, object_id, roles, generate, error)
                else:
                    self._verify(session, object_id, roles, entry)
            except BaseException:
                # The module may have created the object and failed afterwards; no caller knows of it.
                self._destroy_leftovers(session, object_id)
                raise
            self._unfinished.discard(object_id)
            return entry

    def _create_without_extras(
        self,
        session: Session,
        object_id: bytes,
        roles: tuple[ObjectProfile, ...],
        generate: _Generate,
        refusal: CkrError,
    ) -> Entry:
        """Create and verify an object without the optional attributes that the token refused.

        Raises `refusal` if the object differs from its role. The refusal then had another cause, and the next object is
        created with the optional attributes again.
        """
        entry = generate({})
        try:
            self._verify(session, object_id, roles, entry)
        except AttributeMismatch as error:
            raise refusal from error
        self._extras_refused = True
        return entry

    def _verify(self, session: Session, object_id: bytes, roles: tuple[ObjectProfile, ...], entry: Entry) -> None:
        for role in roles:
            handle = entry.public if role.object_class is ObjectClass.PUBLIC_KEY else entry.handle
            kinds = (*IDENTITY, *attributes_of(role.object_class, role.key_type))
            values = self._raw.attributes(session.handle, handle, kinds)
            if short := attribute_mismatches(role, object_id, self._label, values):
                raise AttributeMismatch(f"the token made a {role.name} object that falls short: {'; '.join(short)}")

    def _destroy_leftovers(self, session: Session, object_id: bytes) -> None:
        try:
            for handle in self._raw.find(session.handle, {Attribute.ID: object_id}):
                self._raw.destroy(session.handle, handle)
        except CkrError:
            # The caller raises the original error. Reconcile destroys the objects of `creating` rows.
            return

    # --- destroying, listing, reading ---------------------------------------------------------------

    def destroy(self, session: Session, object_id: bytes) -> None:
        """Destroy every object of the id, and verify in a new session that none is left. No error if none exists."""
        with self._search_lock():
            self.invalidate(object_id)
            for _ in range(_DESTROY_CHECKS):
                for handle in self._find(session, {Attribute.ID: object_id}):
                    try:
                        self._raw.destroy(session.handle, handle)
                    except CkrError as error:
                        if error.rv != Ckr.OBJECT_HANDLE_INVALID:
                            raise
                # SoftHSM drops the handle before it unlinks the file: only a search in another session is proof.
                fresh = self._connection.open_session()
                try:
                    if not self._raw.find(fresh.handle, {Attribute.ID: object_id}):
                        return
                finally:
                    fresh.close()
                time.sleep(0.01)
            raise TokenError(f"the object {object_id.hex()} is still there after it was destroyed")

    def report(self, session: Session) -> list[ObjectReport]:
        """Return all objects of the label, each with its problem if it has one."""
        with self._search_lock():
            found: list[ObjectReport] = []
            self._generation.bump()
            for handle in self._raw.find(session.handle, {Attribute.LABEL: self._label_bytes}):
                values = self._read_all(session, handle)
                object_id = values.get(Attribute.ID, b"")
                kind = KINDS.get(number(values, Attribute.CLASS) or -1, "unknown")  # type: ignore[call-overload]
                role = role_of(values)
                imported = role is not None and role.is_imported
                problem = self._problem(object_id, kind, role, values)
                public = self._shown_public_key(session, handle) if kind == "public" else b""
                found.append(ObjectReport(object_id, kind, problem, imported, public))
            kinds: defaultdict[bytes, Counter[str]] = defaultdict(Counter)
            for one in found:
                kinds[one.object_id][one.kind] += 1
            return [
                one if one.problem else replace(one, problem=_mismatch(one.kind, kinds[one.object_id])) for one in found
            ]

    def _shown_public_key(self, session: Session, handle: int) -> bytes:
        """Return the SubjectPublicKeyInfo of a public object; empty if it shows none of a known kind."""
        try:
            return spki_of(self._read(session, handle, PUBLIC_KEY_ATTRIBUTES))
        except TokenError:
            return b""

    def _problem(self, object_id: bytes, kind: str, role: ObjectProfile | None, values: Mapping[int, bytes]) -> str:
        if kind == "unknown":
            return "not a key: CKA_CLASS is missing or of another kind"
        if len(object_id) != OBJECT_ID_LENGTH:
            return f"CKA_ID has {len(object_id)} bytes, not {OBJECT_ID_LENGTH}"
        if role is None:
            return "its roles are those of no template"
        return "; ".join(attribute_mismatches(role, object_id, self._label, values))

    def _read_all(self, session: Session, handle: int) -> dict[int, bytes]:
        """Return the attributes that the roles of the object's class and key type require."""
        values = self._read(session, handle, IDENTITY)
        kinds = _kinds_of(values)
        return values | self._read(session, handle, kinds) if kinds else values

    def read(self, session: Session, handle: int) -> dict[int, bytes]:
        """Return the attributes of a secret or private object."""
        values = self._raw.attributes(session.handle, handle, IDENTITY)
        return values | self._raw.attributes(session.handle, handle, _kinds_of(values))

    def public_key(self, session: Session, object_id: bytes) -> bytes:
        """Return the DER SubjectPublicKeyInfo of a pair. Raises `NotFound`, `TokenError`."""
        return self._public_key(session, self.public_handle(session, object_id))

    def public_handle(self, session: Session, object_id: bytes) -> int:
        """Return the handle of the public half of a pair. Raises `NotFound`."""
        entry = self.known(object_id) or self._search(session, object_id)
        if not entry.public:
            raise NotFound(f"the public half of {object_id.hex()}")
        self._entries.setdefault(object_id, entry)
        return entry.public

    def _public_key(self, session: Session, public: int) -> bytes:
        return spki_of(self._raw.attributes(session.handle, public, PUBLIC_KEY_ATTRIBUTES))


def _mismatch(kind: str, kinds: Counter[str]) -> str:
    """Return the problem of an object of `kind`, given the kinds of all objects of its id; empty if none."""
    if kinds[kind] > 1:
        return "another object of this kind has the same CKA_ID"
    if set(kinds) in ({"private"}, {"public"}):
        return "the other half of the pair is missing"
    return "" if set(kinds) in ({"secret"}, {"private", "public"}) else "objects of other kinds have the same CKA_ID"


def _kinds_of(values: Mapping[int, bytes]) -> tuple[Attribute, ...]:
    return attributes_of(number(values, Attribute.CLASS), number(values, Attribute.KEY_TYPE))


def _of_role(extras: Mapping[Attribute, Value], role: ObjectProfile) -> dict[Attribute, Value]:
    """Return the optional attributes that a role has too."""
    return {kind: value for kind, value in extras.items() if kind in role.where_allowed}


def _numbered(*parts: Mapping[Attribute, Value]) -> dict[int, Value]:
    """Return one template with attributes by number."""
    return {int(kind): value for part in parts for kind, value in part.items()}
