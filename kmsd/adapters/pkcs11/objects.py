"""Creation, verification, listing and destruction of the daemon's objects in the token."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from typing import TYPE_CHECKING

import structlog
from pkcs11 import Attribute, Mechanism, ObjectClass

from kmsd.adapters.pkcs11.cryptoki_types import number
from kmsd.adapters.pkcs11.handle_cache import Entry, Handles, NotFound
from kmsd.adapters.pkcs11.return_codes import Ckr, CkrError
from kmsd.adapters.pkcs11.templates import (
    IMPORTED,
    KINDS,
    OBJECT_ID_LENGTH,
    P256,
    READ_BACK,
    SEALING,
    SIGNING_PRIVATE,
    SIGNING_PUBLIC,
    WRAPPING_PRIVATE,
    WRAPPING_PUBLIC,
    ObjectProfile,
    attribute_mismatches,
    role_of,
    wrapping_pair,
)
from kmsd.adapters.pkcs11.wrap_mechanisms import KEY_WRAP, public_key_of
from kmsd.ports import ObjectReport, TokenError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from kmsd.adapters.pkcs11.cryptoki_types import Value
    from kmsd.adapters.pkcs11.session_pool import Session, SessionPool
    from kmsd.adapters.pkcs11.softhsm_generation import SoftHsmGeneration
    from kmsd.domain.material import Algorithm

    _Generate = Callable[[Mapping[Attribute, Value]], "Entry"]

log = structlog.get_logger(__name__)

# Return codes for an attribute that the module does not accept. NSS: GENERAL_ERROR for CKA_COPYABLE on a token object.
_REFUSALS = frozenset(
    {
        Ckr.ATTRIBUTE_TYPE_INVALID,
        Ckr.ATTRIBUTE_VALUE_INVALID,
        Ckr.ATTRIBUTE_READ_ONLY,
        Ckr.TEMPLATE_INCONSISTENT,
        Ckr.GENERAL_ERROR,
        Ckr.FUNCTION_FAILED,
        Ckr.ARGUMENTS_BAD,
    }
)
_DESTROY_CHECKS = 50
_AES_KEY = int(Mechanism.AES_KEY_GEN)
_EC_PAIR = int(Mechanism.EC_KEY_PAIR_GEN)
_RSA_PAIR = int(Mechanism.RSA_PKCS_KEY_PAIR_GEN)


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
        role = SEALING[algorithm]

        def generate(extras: Mapping[Attribute, Value]) -> Entry:
            template = {**self._names(object_id), int(Attribute.VALUE_LEN): 32, **_numbered(role.template, extras)}
            return Entry(handle=self._raw.generate(session.handle, _AES_KEY, template))

        self._entries[object_id] = self._create_verified(session, object_id, (role,), generate, new_id=True)

    def create_signing_pair(self, session: Session, object_id: bytes) -> None:
        """Generate and verify an ECDSA P-256 pair, as `create_encryption_key` does."""

        def generate(extras: Mapping[Attribute, Value]) -> Entry:
            names = self._names(object_id)
            public_extras = {kind: value for kind, value in extras.items() if kind in SIGNING_PUBLIC.where_allowed}
            public = {**names, int(Attribute.EC_PARAMS): P256, **_numbered(SIGNING_PUBLIC.template, public_extras)}
            private = {**names, **_numbered(SIGNING_PRIVATE.template, extras)}
            handles = self._raw.generate_pair(session.handle, _EC_PAIR, public, private)
            return Entry(handle=handles[0], public=handles[1])

        profiles = (SIGNING_PRIVATE, SIGNING_PUBLIC)
        self._entries[object_id] = self._create_verified(session, object_id, profiles, generate)

    def create_wrapping_pair(self, session: Session, object_id: bytes, bits: int) -> bytes:
        """Generate and verify an RSA wrapping pair. Return its public key, DER SubjectPublicKeyInfo."""
        entry = None if self._copies_refused else self._copied_pair(session, object_id, bits)
        if entry is None:
            generate = self._generated_pair(session, object_id, bits)
            entry = self._create_verified(session, object_id, (WRAPPING_PRIVATE, WRAPPING_PUBLIC), generate)
        self._entries[object_id] = entry
        return public_key_of(self._raw, session.handle, entry.public, bits)

    def _copied_pair(self, session: Session, object_id: bytes, bits: int) -> Entry | None:
        """Generate a pair of session objects and copy them to the token; None if the token's copies are not usable.

        Finding the primes takes seconds. During that time other threads may hold `Module.catalogue`.
        """
        draft = self._draft_of_pair(session, bits)
        try:
            copy = self._copied(session, object_id, draft)
            return self._create_verified(session, object_id, (WRAPPING_PRIVATE, WRAPPING_PUBLIC), copy)
        except (CkrError, AttributeMismatch) as error:
            if isinstance(error, CkrError) and error.rv not in _REFUSALS:
                raise
            # NSS loses CKA_ALWAYS_SENSITIVE in copies; other modules refuse to copy.
            log.info("token_copies_refused", reason=str(error))
            self._copies_refused = True
            return None
        finally:
            for handle in draft:
                self._raw.destroy(session.handle, handle)

    def _draft_of_pair(self, session: Session, bits: int) -> tuple[int, int]:
        public, private = wrapping_pair(bits)
        loose: dict[int, Value] = {int(Attribute.MODIFIABLE): True}
        narrow = {int(Attribute.ALLOWED_MECHANISMS): WRAPPING_PRIVATE.where_allowed[Attribute.ALLOWED_MECHANISMS]}
        try:
            return self._raw.generate_pair(session.handle, _RSA_PAIR, public | loose, private | loose | narrow)
        except CkrError as error:
            if error.rv not in _REFUSALS:
                raise
            return self._raw.generate_pair(session.handle, _RSA_PAIR, public | loose, private | loose)

    def _copied(self, session: Session, object_id: bytes, draft: tuple[int, int]) -> _Generate:
        def generate(_: Mapping[Attribute, Value]) -> Entry:
            # CKA_MODIFIABLE last, as in `unwrap`.
            lasting: dict[int, Value] = {**self._names(object_id), Attribute.TOKEN: True, Attribute.MODIFIABLE: False}
            private, public = (self._raw.copy(session.handle, half, lasting) for half in draft)
            return Entry(handle=private, public=public)

        return generate

    def _generated_pair(self, session: Session, object_id: bytes, bits: int) -> _Generate:
        def generate(extras: Mapping[Attribute, Value]) -> Entry:
            public, private = wrapping_pair(bits)
            lasting: dict[int, Value] = {**self._names(object_id), Attribute.TOKEN: True}
            narrow = _numbered(extras)
            halves = self._raw.generate_pair(session.handle, _RSA_PAIR, public | lasting, private | lasting | narrow)
            return Entry(handle=halves[0], public=halves[1])

        return generate

    def unwrap(self, session: Session, object_id: bytes, algorithm: Algorithm, kek: int, wrapped: bytes) -> None:
        """Create an encryption key from material wrapped under session key `kek`, and verify it."""
        role = IMPORTED[algorithm]

        def unwrap(extras: Mapping[Attribute, Value]) -> Entry:
            template: dict[int, Value] = {
                **self._names(object_id),
                int(Attribute.CLASS): int(role.object_class),
                int(Attribute.KEY_TYPE): int(role.key_type),
                **_numbered(role.template, extras),
            }
            # CKA_MODIFIABLE last: SoftHSM 2.6.1 sets attributes one by one, and refuses any after this one.
            template[Attribute.MODIFIABLE] = template.pop(Attribute.MODIFIABLE)
            return Entry(handle=self._raw.unwrap(session.handle, KEY_WRAP, kek, wrapped, template))

        self._entries[object_id] = self._create_verified(session, object_id, (role,), unwrap)

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
                    if not extras or error.rv not in _REFUSALS:
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
            values = self._raw.attributes(session.handle, handle, READ_BACK)
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
            found: list[tuple[bytes, str, str, bool]] = []
            self._generation.bump()
            for handle in self._raw.find(session.handle, {Attribute.LABEL: self._label_bytes}):
                values = self._read(session, handle, READ_BACK)
                object_id = values.get(Attribute.ID, b"")
                kind = KINDS.get(number(values, Attribute.CLASS) or -1, "unknown")  # type: ignore[call-overload]
                imported = role_of(values) in IMPORTED.values()
                found.append((object_id, kind, self._problem(object_id, kind, values), imported))
            kinds: defaultdict[bytes, Counter[str]] = defaultdict(Counter)
            for object_id, kind, _, _ in found:
                kinds[object_id][kind] += 1
            return [
                ObjectReport(object_id, kind, problem or _mismatch(kind, kinds[object_id]), imported)
                for object_id, kind, problem, imported in found
            ]

    def _problem(self, object_id: bytes, kind: str, values: Mapping[int, bytes]) -> str:
        if kind == "unknown":
            return "not a key: CKA_CLASS is missing or of another kind"
        if len(object_id) != OBJECT_ID_LENGTH:
            return f"CKA_ID has {len(object_id)} bytes, not {OBJECT_ID_LENGTH}"
        role = role_of(values)
        if role is None:
            return "its roles are those of no template"
        return "; ".join(attribute_mismatches(role, object_id, self._label, values))

    def read(self, session: Session, object_id: bytes) -> dict[int, bytes]:
        """Return the `READ_BACK` attributes of the secret or private object. Raises `NotFound`."""
        return self._raw.attributes(session.handle, self.entry(session, object_id).handle, READ_BACK)

    def point(self, session: Session, object_id: bytes) -> bytes:
        """Return CKA_EC_POINT of a pair's public half. Raises `NotFound`."""
        entry = self.known(object_id) or self._search(session, object_id)
        if not entry.public:
            raise NotFound(f"the public half of {object_id.hex()}")
        self._entries.setdefault(object_id, entry)
        return self._raw.attributes(session.handle, entry.public, (Attribute.EC_POINT,)).get(Attribute.EC_POINT, b"")


def _mismatch(kind: str, kinds: Counter[str]) -> str:
    """Return the problem of an object of `kind`, given the kinds of all objects of its id; empty if none."""
    if kinds[kind] > 1:
        return "another object of this kind has the same CKA_ID"
    if set(kinds) in ({"private"}, {"public"}):
        return "the other half of the pair is missing"
    return "" if set(kinds) in ({"secret"}, {"private", "public"}) else "objects of other kinds have the same CKA_ID"


def _numbered(*parts: Mapping[Attribute, Value]) -> dict[int, Value]:
    """Return one template with attributes by number."""
    return {int(kind): value for part in parts for kind, value in part.items()}
