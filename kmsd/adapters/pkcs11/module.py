"""PKCS#11 module: loaded once per process, initialised with locking, by one process at a time.

python-pkcs11 loads the module, finds slots and tokens, opens sessions and creates keys. Its C_Initialize is replaced.
It passes NULL ("this is a single-threaded application") but releases the interpreter lock in every call. SoftHSM then
switches its mutexes off, and two threads crash it.

A process must not fork after C_Initialize: with NSS, parent and child would get the same random bytes
(docs/hsm/nss-softokn.md). A child that is forked anyway finds every connection retired. Fork followed at once by exec
is safe.
"""

from __future__ import annotations

import fcntl
import os
import threading
import time
import weakref
from contextlib import contextmanager
from typing import TYPE_CHECKING, ClassVar, Protocol, Self

import pkcs11
from pkcs11 import _pkcs11
from pkcs11.exceptions import PKCS11Error

from kmsd.adapters.pkcs11.cryptoki import RawModule
from kmsd.adapters.pkcs11.return_codes import Ckr, CkrError, of_binding
from kmsd.ports import ModuleUnusable, TokenBusy, TokenUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from kmsd.adapters.pkcs11.settings import TokenSettings


class _LockingLibrary(_pkcs11.lib):
    """The binding's library, with C_Initialize and C_Finalize called by the raw layer."""

    def __new__(cls, path: str, raw: RawModule, reserved: bytes | None) -> Self:  # noqa: ARG004 (for __init__)
        # The extension type's constructor takes the path alone.
        return super().__new__(cls, path)  # type: ignore[call-arg]  # the binding's stubs omit __new__

    def __init__(self, path: str, raw: RawModule, reserved: bytes | None) -> None:
        self.raw = raw
        self.reserved = reserved
        super().__init__(path)

    def initialize(self) -> None:
        self.raw.initialize(self.reserved)

    def finalize(self) -> None:
        self.raw.finalize()

    def reinitialize(self) -> None:
        # The binding finalises first, and fails permanently if something else has finalised the module.
        try:
            self.finalize()
        except CkrError as error:
            if error.rv != Ckr.CRYPTOKI_NOT_INITIALIZED:
                raise
        self.initialize()


class LoggedIn(Protocol):
    """A login of the module. It ends when the module is restarted."""

    retired: bool

    def discard(self) -> None:
        """Refuse new calls."""
        ...

    def drained(self, *, timeout: float) -> bool:
        """True once no call is inside the module."""
        ...


class Module:
    """One PKCS#11 module in this process.

    `epoch` counts its initialisations. Sessions and handles of an earlier initialisation are invalid.
    """

    _loaded: ClassVar[dict[str, Module]] = {}
    _loading: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self, path: str) -> None:
        self.path = path
        self.raw = RawModule(path)
        self.epoch = 0
        self.initialized = False
        self._library: _LockingLibrary | None = None
        self._lock = threading.RLock()
        self._users = 0
        self._reserved: bytes | None = None
        self._connections: weakref.WeakSet[LoggedIn] = weakref.WeakSet()
        self._accepted_pins: dict[int, bytes] = {}
        self._search_lock = threading.RLock()
        os.register_at_fork(after_in_child=self._forked)

    # --- life ---------------------------------------------------------------------------------------

    @classmethod
    def acquire(cls, path: Path, init_reserved: str | None) -> Module:
        """Return the process's only copy of the module. Pair each `acquire` with one `release`."""
        name = os.path.realpath(path)
        with cls._loading:
            try:
                module = cls._loaded.get(name) or cls(name)
            except (OSError, AttributeError) as error:
                raise ModuleUnusable(f"the module {path} cannot be loaded: {error}") from error
            cls._loaded[name] = module
            reserved = init_reserved.encode() if init_reserved is not None else None
            with module._lock:  # noqa: SLF001 (its own class)
                module._join(reserved)  # noqa: SLF001
        return module

    def _join(self, reserved: bytes | None) -> None:
        if self._users and reserved != self._reserved:
            raise TokenUnavailable("the module is in use in this process with another init_reserved")
        self._reserved = reserved
        self._users += 1

    def release(self, *, finalize: bool) -> None:
        """Release the module. The last user finalises it if `finalize`; pass False while calls hang inside."""
        with self._lock:
            self._users -= 1
            if self._users == 0 and self.initialized and finalize:
                self._finalize()

    def ensure_initialized(self) -> None:
        """Call C_Initialize unless this process has already done so."""
        with self._lock:
            if not self.initialized:
                self._initialize()

    def serves_others(self, seen_epoch: int) -> bool:
        """True if a restart after `seen_epoch` would end a login that is in use."""
        return self.epoch == seen_epoch and any(not connection.retired for connection in list(self._connections))

    def restart(self, seen_epoch: int) -> None:
        """Call C_Finalize and C_Initialize, unless that has happened since `seen_epoch`.

        First retires all connections of the module and waits up to 1 s for the calls of each: PKCS#11 does not define
        C_Finalize while other threads are inside (v2.40 section 5.4). Raises `TokenUnavailable` if they do not return.
        """
        with self._lock:
            if self.initialized and self.epoch != seen_epoch:
                return
            for connection in list(self._connections):
                connection.discard()
            if not all(connection.drained(timeout=1.0) for connection in list(self._connections)):
                raise TokenUnavailable("calls hang inside the module; it cannot be restarted until they return")
            self._finalize()
            self._initialize()

    def _initialize(self) -> None:
        if self._library is None:
            try:
                self._library = _LockingLibrary(self.path, self.raw, self._reserved)
            except PKCS11Error:
                # C_Initialize succeeded; the binding's next call failed.
                self.raw.finalize()
                raise
        else:
            self._library.reserved = self._reserved
            self._library.initialize()
        self.initialized = True
        self.epoch += 1

    def _finalize(self) -> None:
        self._accepted_pins.clear()
        self.initialized = False
        try:
            self.raw.finalize()
        except CkrError as error:
            if error.rv != Ckr.CRYPTOKI_NOT_INITIALIZED:
                raise

    def _forked(self) -> None:
        for connection in list(self._connections):
            connection.retired = True
        self._connections.clear()

    @contextmanager
    def catalogue(self, timeout: float) -> Iterator[None]:
        """Hold the lock for searching, creating and destroying objects: one thread of the process at a time.

        When another thread searches or creates at the same time, SoftHSM 2.6.1 creates objects that lack attributes
        (CKA_COPYABLE, even CKA_ID) and fails with GENERAL_ERROR: 9 of 10 creations, with two threads. Its cryptographic
        functions are not affected unless their own key is destroyed (`object_locks`). Its processes do not disturb each
        other.
        """
        if not self._search_lock.acquire(timeout=timeout):
            raise TokenBusy("another call searches, makes or destroys objects")
        try:
            yield
        finally:
            self._search_lock.release()

    # --- tokens and login ---------------------------------------------------------------------------

    def find_token(self, settings: TokenSettings) -> pkcs11.Token:
        """Return the only token that matches label, serial and slot. Raises `TokenUnavailable`."""
        if self._library is None:
            raise TokenUnavailable("the module is not initialised")
        matching = []
        try:
            for slot in self._library.get_slots(token_present=True):
                if settings.slot is not None and slot.slot_id != settings.slot:
                    continue
                token = slot.get_token()
                serial = token.serial.decode("utf-8", "replace").rstrip(" \0")
                if settings.label in (None, token.label) and settings.serial in (None, serial):
                    matching.append(token)
        except PKCS11Error as error:
            raise of_binding(error) from error
        wanted = f"label {settings.label!r}, serial {settings.serial!r}, slot {settings.slot!r}"
        if len(matching) != 1:
            raise TokenUnavailable(f"{len(matching) or 'no'} tokens with {wanted}")
        return matching[0]

    def login(self, session: int, slot: int, pin: bytes) -> None:
        """Log the process in.

        If the process is already logged in, compare the PIN with the one that the token accepted.
        """
        # "all sessions that an application has with a token must have the same login/logout status" (PKCS#11 v2.20
        # section 6.7.4).
        with self._lock:
            known = self._accepted_pins.get(slot)
            try:
                self.raw.login(session, pin)
            except CkrError as error:
                if error.rv != Ckr.USER_ALREADY_LOGGED_IN:
                    raise
                if known != pin:
                    raise CkrError(Ckr.PIN_INCORRECT, "the process is logged in by another PIN") from error
            self._accepted_pins[slot] = pin

    def enlist(self, connection: LoggedIn) -> None:
        """Register a connection, so that it is retired before the module is finalised."""
        self._connections.add(connection)


@contextmanager
def start_lock(path: Path | None, timeout: float) -> Iterator[None]:
    """Hold the file lock that lets one process at a time initialise and log in. Raises `TokenUnavailable`."""
    if path is None:
        yield
        return
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise TokenUnavailable(f"the start lock cannot be opened: {error}") from error
    try:
        _lock_within(descriptor, time.monotonic() + timeout, path)
        yield
    finally:
        os.close(descriptor)


def _lock_within(descriptor: int, end: float, path: Path) -> None:
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= end:
                raise TokenUnavailable(f"another process holds {path} too long") from None
            time.sleep(0.01)
        else:
            return
