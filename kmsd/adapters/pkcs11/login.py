"""One login to the token, everything that is valid only with it, and its start with retries."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec
import structlog
from pkcs11.exceptions import PKCS11Error

from kmsd.adapters.pkcs11 import refused_pin, softhsm_token_copy, token_probe
from kmsd.adapters.pkcs11.handle_cache import NotFound
from kmsd.adapters.pkcs11.held_objects import ObjectSession
from kmsd.adapters.pkcs11.key_handles import KeyHandles
from kmsd.adapters.pkcs11.key_import import Transport, new_transport
from kmsd.adapters.pkcs11.module import start_lock
from kmsd.adapters.pkcs11.objects import Objects
from kmsd.adapters.pkcs11.return_codes import Ckr, CkrError, ErrorClass, name_of, of_binding, port_error
from kmsd.adapters.pkcs11.roles import role_of
from kmsd.adapters.pkcs11.session_pool import Session, SessionPool, serial_of
from kmsd.adapters.pkcs11.softhsm_generation import SoftHsmGeneration
from kmsd.adapters.pkcs11.softhsm_token_copy import Identity, TokenCopy
from kmsd.adapters.pkcs11.syncfs import sync_folder
from kmsd.adapters.pkcs11.templates import SEALING
from kmsd.adapters.pkcs11.wrapped_keys import WrappedKeys
from kmsd.adapters.pkcs11.wrapping import Wrapping
from kmsd.adapters.pkcs11.xaes import DerivedKeys, Sealing
from kmsd.ports import PinRefused, TokenError, TokenUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable

    from kmsd.adapters.pkcs11.module import Module
    from kmsd.adapters.pkcs11.settings import TokenSettings
    from kmsd.domain.material import KeyReference

log = structlog.get_logger(__name__)

START_TRIES = 20
_PAUSE = 0.05


class Login(msgspec.Struct):
    """A login, with its handles and derived keys. All of them are invalid when it ends."""

    connection: SessionPool
    objects: Objects
    keys: KeyHandles
    derived: DerivedKeys
    wrapped: WrappedKeys
    sealing: Sealing
    wrapping: Wrapping
    owner: ObjectSession
    """Owns the derived and the unwrapped keys."""
    sentinel: int
    """Handle of the sentinel; 0 if there is none."""
    renewing: threading.Lock = msgspec.field(default_factory=threading.Lock)
    transport: Transport | None = None
    """Created at the first use; ends with its session."""
    transporting: threading.Lock = msgspec.field(default_factory=threading.Lock)

    @property
    def number(self) -> int:
        """Number of the module's initialisation that this login belongs to."""
        return self.connection.epoch

    def verify(self, session: Session) -> None:
        """Prove that the token is present and logged in, with two cheap calls. Raises `CkrError`."""
        if self.sentinel:
            self.connection.raw.touch(session.handle, self.sentinel)
        else:
            self.connection.verify_identity()
        # NSS reveals the attributes of private objects even after a logout.
        self.connection.verify_login(session)

    def exercise(self, session: Session, sentinel: bytes) -> None:
        """Encrypt with the sentinel, by an algorithm that its role and the token allow. Raises `CkrError`.

        It is only read if the token does not encrypt by that algorithm any more.
        """
        role = role_of(self.objects.read(session, self.sentinel))
        if not any(sealing is role for sealing in SEALING.values()):
            raise CkrError(Ckr.KEY_FUNCTION_NOT_PERMITTED, "the sentinel has no sealing role")
        algorithm = next((a for a in self.sealing.requests if SEALING[a] is role), None)
        if algorithm is None:
            return
        self.derived.invalidate(sentinel)
        self.sealing.seal(session, sentinel, algorithm, b"", b"sentinel")
        self.derived.invalidate(sentinel)
        self.derived.destroy_retired()

    def within_reach(self, key: KeyReference | None) -> bool:
        """True if a key that is not ready is unwrapped or derived without a search in the token."""
        if key is None:
            return True
        if isinstance(key, bytes):
            entry = self.objects.known(key)
            return entry is not None and entry.handle != 0
        return self.keys.is_known(key) or self.wrapped.is_open(key.domain_key_id, key.binding_key)

    def transport_key(self) -> Transport:
        """Return the RSA pair under which another token wraps key material for this login. Raises `CkrError`."""
        with self.transporting:
            if self.transport is None:
                self.transport = new_transport(self.connection)
            return self.transport

    def renew_sessions(self) -> None:
        """Replace all free sessions, after one was found dead. Derived and unwrapped keys end with their session."""
        with self.renewing:
            self.connection.discard_free_sessions()
            fresh = self.connection.open_session()
            for held in (self.derived, self.wrapped):
                held.retire_all()
            old = self.owner.replace(fresh)
            for held in (self.derived, self.wrapped):
                held.drop_all()
            old.close()
        with self.transporting:
            transport, self.transport = self.transport, None
        if transport is not None:
            transport.session.close()

    def invalidate(self, key_id: bytes) -> None:
        """Forget the handle of a key, and retire its unwrapped and derived keys."""
        self.keys.invalidate(key_id)
        self.derived.invalidate(key_id)

    @property
    def retired_count(self) -> int:
        """Number of derived and unwrapped keys that no call uses any more, and that are still in the token."""
        return self.derived.retired_count + self.wrapped.retired_count

    def destroy_retired(self) -> None:
        """Destroy those keys. Raises `CkrError`."""
        self.derived.destroy_retired()
        self.wrapped.destroy_retired()

    def sweep(self) -> None:
        """Retire the derived and unwrapped keys that are too old."""
        self.derived.sweep()
        self.wrapped.sweep()

    def close(self) -> None:
        """Destroy the derived and unwrapped keys, close every session and log out. No call may be running."""
        for held in (self.derived, self.wrapped):
            held.retire_all()
        self.destroy_retired()
        self.owner.session.close()
        if self.transport is not None:
            self.transport.session.close()
        self.connection.close()


def start(
    module: Module, settings: TokenSettings, clock: Callable[[], float], void: int | None, *, tries: int
) -> Login:
    """Initialise the module, find the token, and log in. Finalises first if initialisation `void` is still current.

    Runs in one process at a time, with retries: SoftHSM rewrites its token object at each login, and a tenth of
    parallel starts fail. A token that was missed is found only after C_Finalize and C_Initialize. The PIN is offered
    once: a refusal ends the attempts. A damaged token object is restored before each attempt.

    While another token's login of the module is in use, it is finalised only if a new process finds this token.
    """
    end = time.monotonic() + settings.start_deadline
    last: Exception = TokenUnavailable("the token was not tried")
    identity = Identity(settings.label, settings.serial, settings.slot)
    with start_lock(settings.start_lock, settings.start_deadline):
        for attempt in range(1, tries + 1):
            try:
                softhsm_token_copy.restore(settings.token_dir_sync, identity)
                if void is not None:
                    _restart(module, settings, void)
                module.ensure_initialized()
                return _log_in(module, settings, clock)
            except (CkrError, PKCS11Error, TokenUnavailable) as error:
                last = of_binding(error) if isinstance(error, PKCS11Error) else error
                if (
                    isinstance(error, PinRefused | SentinelMissing | StillAway)
                    or attempt == tries
                    or time.monotonic() > end
                ):
                    break
                log.debug("token_start_retry", attempt=attempt, reason=str(error))
                void = module.epoch
                time.sleep(_PAUSE)
    if isinstance(last, CkrError):
        raise TokenUnavailable(f"the token does not start: {last}") from last
    raise last


class SentinelMissing(TokenUnavailable):
    """The token is present but does not hold the sentinel: it is another token, or objects are missing."""


class StillAway(TokenUnavailable):
    """A new process does not find the token. The module is not restarted for it: it serves another one."""


_FINAL = PinRefused | SentinelMissing | StillAway
"""Another attempt at once would not help."""


def _restart(module: Module, settings: TokenSettings, void: int) -> None:
    if module.serves_others(void) and not token_probe.finds(settings):
        raise StillAway("the token is away: a new process does not find it")
    module.restart(void)


def _log_in(module: Module, settings: TokenSettings, clock: Callable[[], float]) -> Login:
    token = module.find_token(settings)
    serial = serial_of(token)
    refused_pin.check(settings.refused_pin, serial, settings.pin)
    copy = TokenCopy(token.manufacturer_id, serial, settings.token_dir_sync)
    copy.before_login()
    try:
        connection = SessionPool(module, token, settings.pin)
    except CkrError as error:
        if error.error_class is not ErrorClass.PIN:
            raise
        addition = _record_refusal(settings, serial, error)
        raise PinRefused(f"{port_error(error)}; it is not offered again{addition}") from error
    with suppress(OSError):  # the token accepted the PIN: the file is about another PIN or token
        refused_pin.clear(settings.refused_pin)
    try:
        _sync_token_folder(settings)
        copy.after_login()
        return _build(connection, settings, clock)
    except BaseException:
        connection.discard()
        with suppress(CkrError):
            connection.close()
        raise


def _record_refusal(settings: TokenSettings, serial: str, error: CkrError) -> str:
    """Record the refusal if the token itself was asked. Return a text for the error message if that fails."""
    if error.function != "C_Login":
        return ""
    try:
        refused_pin.record(settings.refused_pin, serial, settings.pin, name_of(error.rv))
    except OSError as cause:
        return f" by this process, but the next one may offer it: {settings.refused_pin} cannot be written ({cause})"
    return ""


def _sync_token_folder(settings: TokenSettings) -> None:
    """Sync the token folder after login.

    SoftHSM truncates and rewrites its token object at login; a power loss before that is on disk leaves it empty.
    """
    try:
        sync_folder(settings.token_dir_sync)
    except TokenError as error:
        raise TokenUnavailable(str(error)) from error


def _build(connection: SessionPool, settings: TokenSettings, clock: Callable[[], float]) -> Login:
    info = connection.info
    generation = SoftHsmGeneration(info.manufacturer, info.serial, settings.token_dir_sync)
    objects = Objects(connection, settings.object_label, generation, patience=settings.deadline)
    connection.run(objects.fill)
    sentinel = 0
    if (wanted := settings.sentinel) is not None:
        try:
            sentinel = connection.run(lambda session: objects.entry(session, wanted).handle)
        except NotFound as error:
            raise SentinelMissing("the token is there, but the sentinel object is not in it") from error
    owner, raw = ObjectSession(connection.open_session()), connection.raw
    derived = DerivedKeys(
        raw,
        owner,
        messages=settings.seal_messages,
        age=settings.derived_key_age,
        count=settings.derived_keys,
        clock=clock,
    )
    wrapped = WrappedKeys(raw, owner, objects, count=settings.held_keys, age=settings.held_key_age, clock=clock)
    keys = KeyHandles(objects, wrapped)
    sealing, wrapping = Sealing(raw, keys, derived), Wrapping(raw, wrapped)
    return Login(connection, objects, keys, derived, wrapped, sealing, wrapping, owner, sentinel)
