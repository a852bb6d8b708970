"""Key ceremony: the security officer makes domain keys, and the user locks them into the token.

A private key can be made by the user only, a trusted one by the security officer only. So the security officer makes
the domain key as a public session object, which SoftHSM never writes to disk. After C_Logout and C_Login in the same
session, the user copies it to a private token object that cannot leave the token. A process that dies on the way
leaves nothing, or domain keys that wrap nothing and have no row in the store.

The ceremony has the module to itself: no other login of this process may exist, because "all sessions that an
application has with a token must have the same login/logout status" (PKCS#11 v2.20 section 6.7.4).
"""

from __future__ import annotations

import secrets
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, TypeVar

import msgspec
from pkcs11 import Attribute, Mechanism
from pkcs11.exceptions import PKCS11Error

from kmsd.adapters.pkcs11 import refused_pin, softhsm_token_copy
from kmsd.adapters.pkcs11.binding_key import CMAC, make_binding_key, open_binding_key
from kmsd.adapters.pkcs11.domain_key_profile import draft_template, lasting_template
from kmsd.adapters.pkcs11.domain_key_proof import prove_enforcement
from kmsd.adapters.pkcs11.module import Module, start_lock
from kmsd.adapters.pkcs11.return_codes import Ckr, CkrError, ErrorClass, name_of, of_binding, port_error
from kmsd.adapters.pkcs11.session_pool import serial_of
from kmsd.adapters.pkcs11.softhsm_token_copy import Identity, TokenCopy
from kmsd.adapters.pkcs11.syncfs import sync_folder
from kmsd.adapters.pkcs11.templates import OBJECT_ID_LENGTH
from kmsd.ports import PinRefused, TokenError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    import pkcs11

    from kmsd.adapters.pkcs11.settings import TokenSettings

T = TypeVar("T")
_AES_KEY_GEN = int(Mechanism.AES_KEY_GEN)


class NewDomainKey(msgspec.Struct, frozen=True):
    """A domain key that is locked into the token, proven and durable."""

    domain_key_id: bytes
    """CKA_ID, 16 random bytes."""
    binding_key: bytes
    """Its binding key, wrapped under it."""


class Created(msgspec.Struct, frozen=True):
    """Result of a ceremony."""

    serial: str
    """Serial number of the token."""
    domain_keys: tuple[NewDomainKey, ...]


def create_domain_keys(settings: TokenSettings, so_pin: bytes, count: int) -> Created:
    """Make `count` domain keys. Each PIN is offered once.

    The start lock is held meanwhile. Raises `PinRefused`, `TokenUnavailable`, `CustodyNotEnforced` if the token does
    not enforce what they promise, and `TokenError`; then no domain key is left.
    """
    with ceremony(settings) as here, here.start_lock():
        here.login_security_officer(so_pin)
        made = here.lock_in(here.make_drafts(count), here.with_binding_key)
        return Created(here.serial, made)


def prove_domain_key(settings: TokenSettings, domain_key_id: bytes, binding_key: bytes) -> None:
    """Prove that the token enforces what a domain key promises, and that its binding key opens under it.

    The process may be logged in. Raises `PinRefused`, `TokenUnavailable`, `CustodyNotEnforced`, `TokenError`.
    """
    with ceremony(settings) as here, here.start_lock():
        refused_pin.check(settings.refused_pin, here.serial, settings.pin)
        here.login_user()
        here.prove(NewDomainKey(domain_key_id, binding_key))


@contextmanager
def ceremony(settings: TokenSettings) -> Iterator[Ceremony]:
    """Open a session for a ceremony, and close it at the end of the block. Raises `TokenError` for every failure."""
    with translated():
        module = Module.acquire(settings.module, settings.init_reserved)
        try:
            with _session(module, settings) as here:
                yield here
        finally:
            module.release(finalize=True)


@contextmanager
def translated() -> Iterator[None]:
    """Raise the port's error in place of a `CkrError`."""
    try:
        yield
    except CkrError as error:
        raise port_error(error) from error


@contextmanager
def _session(module: Module, settings: TokenSettings) -> Iterator[Ceremony]:
    try:
        with start_lock(settings.start_lock, settings.start_deadline):
            identity = Identity(settings.label, settings.serial, settings.slot)
            softhsm_token_copy.restore(settings.token_dir_sync, identity)
            module.ensure_initialized()
            token = module.find_token(settings)
            session = token.open(rw=True)
    except PKCS11Error as error:
        raise of_binding(error) from error
    try:
        yield Ceremony(module, settings, token, session)
    finally:
        # In a ceremony it is the only session: the process is logged out, and the session objects are gone.
        with suppress(PKCS11Error):
            session.close()


class Ceremony:
    """One read-write session, in which first the security officer and then the user is logged in.

    Methods raise `CkrError` besides the errors that they name; `ceremony` translates it.
    """

    def __init__(self, module: Module, settings: TokenSettings, token: pkcs11.Token, session: pkcs11.Session) -> None:
        self.raw = module.raw
        self.session: int = session.handle  # type: ignore[attr-defined]  # the binding's stubs omit it
        self.serial = serial_of(token)
        self._copy = TokenCopy(token.manufacturer_id, self.serial, settings.token_dir_sync)
        self._slot: int = token.slot.slot_id
        self._module = module
        self._settings = settings

    @contextmanager
    def start_lock(self) -> Iterator[None]:
        """Let no other process log in meanwhile: SoftHSM rewrites its token object at each login."""
        with start_lock(self._settings.start_lock, self._settings.start_deadline):
            yield

    def login_security_officer(self, so_pin: bytes) -> None:
        """Log the security officer in, in one attempt. The caller holds the start lock. Raises `PinRefused`."""
        # The user's turn comes later. A PIN that the token has refused before must not end the ceremony half-way.
        refused_pin.check(self._settings.refused_pin, self.serial, self._settings.pin)
        self._copy.before_login()
        try:
            self.raw.administration.login_security_officer(self.session, so_pin)
        except CkrError as error:
            if error.rv == Ckr.USER_TYPE_INVALID:
                raise TokenError(f"the token has no security officer who could make a domain key: {error}") from error
            if error.error_class is not ErrorClass.PIN:
                raise
            raise PinRefused(
                f"the token refused the security officer's PIN ({error}); it is not offered again"
            ) from error
        sync_folder(self._settings.token_dir_sync)
        self._copy.after_login()

    def make_drafts(self, count: int) -> dict[bytes, int]:
        """Generate domain keys as session objects of the security officer. Return their handles by new ids."""
        drafts = (self.raw.generate(self.session, _AES_KEY_GEN, draft_template()) for _ in range(count))
        return {secrets.token_bytes(OBJECT_ID_LENGTH): draft for draft in drafts}

    def with_binding_key(self, domain_key_id: bytes, domain_key: int) -> NewDomainKey:
        """Return a domain key that is in the token, with a new binding key."""
        return NewDomainKey(domain_key_id, make_binding_key(self.raw, self.session, domain_key))

    def lock_in(self, drafts: Mapping[bytes, int], finish: Callable[[bytes, int], T]) -> tuple[T, ...]:
        """Log the user in, and make locked token objects of the drafts, by their ids. The caller holds the start lock.

        Returns what `finish` returns for each id and handle. The objects are then durable, read back and proven, and
        the drafts are destroyed. Raises `PinRefused`, `CustodyNotEnforced`, `TokenError`, and what `finish` raises;
        then none of the token objects is left.
        """
        self.raw.administration.logout(self.session)
        self.login_user()
        if known := [one for one in drafts if self.raw.find(self.session, {Attribute.ID: one})]:
            raise TokenError(f"the token has an object with the id {known[0].hex()} already")
        try:
            for domain_key_id, draft in drafts.items():
                self.raw.copy(self.session, draft, lasting_template(domain_key_id, self._settings.object_label))
                self.raw.destroy(self.session, draft)
            sync_folder(self._settings.token_dir_sync)
            return tuple(self._finished(domain_key_id, finish) for domain_key_id in drafts)
        except BaseException:
            self._destroy(drafts)
            raise

    def _finished(self, domain_key_id: bytes, finish: Callable[[bytes, int], T]) -> T:
        domain_key = self.find(domain_key_id)
        prove_enforcement(self.raw, self.session, domain_key)
        return finish(domain_key_id, domain_key)

    def login_user(self) -> None:
        """Log the user in, unless the process is, in one attempt. Raises `PinRefused`."""
        settings = self._settings
        self._copy.before_login()
        try:
            self._module.login(self.session, self._slot, settings.pin)
        except CkrError as error:
            if error.error_class is not ErrorClass.PIN:
                raise
            try:
                refused_pin.record(settings.refused_pin, self.serial, settings.pin, name_of(error.rv))
            except OSError as cause:
                raise PinRefused(f"{error}; {settings.refused_pin} cannot be written ({cause})") from error
            raise PinRefused(f"{error}; it is not offered again") from error
        with suppress(OSError):  # the token accepted the PIN: the file is about another PIN or token
            refused_pin.clear(settings.refused_pin)
        self._copy.after_login()

    def prove(self, domain_key: NewDomainKey) -> None:
        """Prove a domain key that is in the token, and open its binding key. Raises as `prove_domain_key`."""
        handle = self.find(domain_key.domain_key_id)
        prove_enforcement(self.raw, self.session, handle)
        self.binding_mac(handle, domain_key.binding_key, domain_key.domain_key_id)

    def binding_mac(self, domain_key: int, binding_key: bytes, text: bytes) -> bytes:
        """Return the CMAC of a text by a wrapped binding key. Raises `TokenError`."""
        key = open_binding_key(self.raw, self.session, domain_key, binding_key)
        try:
            return self.raw.sign(self.session, key, CMAC, text)
        finally:
            self.raw.destroy(self.session, key)

    def find(self, domain_key_id: bytes) -> int:
        """Return the handle of a domain key. Raises `TokenError` if there is not exactly one object of the id."""
        found = self.raw.find(self.session, {Attribute.ID: domain_key_id})
        if len(found) != 1:
            raise TokenError(f"the token has {len(found) or 'no'} objects with the id {domain_key_id.hex()}")
        return found[0]

    def _destroy(self, domain_key_ids: Iterable[bytes]) -> None:
        for domain_key_id in domain_key_ids:
            with suppress(CkrError):  # the caller raises the original error; what is left has no row
                for handle in self.raw.find(self.session, {Attribute.ID: domain_key_id}):
                    self.raw.destroy(self.session, handle)
