"""Settings of the token adapter: the module, the token, and limits."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from kmsd.adapters.pkcs11.templates import OBJECT_ID_LENGTH

if TYPE_CHECKING:
    from kmsd.adapters.pkcs11.inline_policy import Mode


@dataclass(frozen=True, slots=True)
class TokenSettings:
    """Settings of the adapter. Label, serial and slot identify the token; all that are given must match."""

    module: Path
    """Path of the PKCS#11 module, a shared library."""
    pin: bytes = field(repr=False)
    """User PIN, as read from its file; kept in memory for reconnection."""
    label: str | None = None
    """Label of the token."""
    serial: str | None = None
    """Serial number of the token."""
    slot: int | None = None
    """Slot id of the token, for modules whose slot ids never change."""
    object_label: str = "kmsd"
    """CKA_LABEL of every object that the daemon creates; ASCII."""
    sentinel: bytes | None = None
    """Object id of the key that proves that the token is present; None only until `kmsd init` has created it."""
    init_reserved: str | None = None
    """String for pReserved of C_Initialize, if the module requires one (NSS: its configuration)."""
    start_lock: Path | None = None
    """File that processes lock to initialise and log in one at a time; None if there is only one process."""
    refused_pin: Path | None = None
    """File that records a PIN that the token refused; None: nothing is recorded."""
    token_dir_sync: Path | None = None
    """Folder on whose file system syncfs is called before a new or destroyed object is acknowledged (SoftHSM)."""
    sessions: int = 8
    """Calls that may run inside the module at once, each on a thread and a session of its own."""
    queue_limit: int = 256
    """Calls that may wait for a thread; above it a call raises `TokenBusy`."""
    deadline: float = 5.0
    """Seconds after which a call on the request path is abandoned."""
    slow_deadline: float = 60.0
    """Seconds for creating, destroying and listing objects."""
    start_deadline: float = 60.0
    """Seconds for the start: the lock, retries, login and the listing of all objects."""
    abandoned_limit: int = 8
    """Threads that may hang in the module past their deadline; at this number every call fails at once."""
    inline: Mode = "auto"
    """Where calls of the data path run: `auto` runs the fast ones on the event loop."""
    inline_below: float = 200e-6
    """Seconds per call below which `auto` runs a call inline."""
    seal_messages: int = 2**20
    """Messages encrypted under one derived key of XAES-256-GCM before a new nonce prefix is drawn."""
    derived_key_age: float = 300.0
    """Seconds that a derived key is kept, for encryption and for decryption."""
    derived_keys: int = 4096
    """Derived keys that are kept at once."""
    held_keys: int = 2048
    """Unwrapped keys of wrapped material that are kept at once. With the derived keys they stay below 10,000: SoftHSM's
    C_CloseSession takes 29 ms with 100,000 session objects, and 0.6 ms with 10,000."""
    held_key_age: float = 3600.0
    """Seconds that an unwrapped key is kept."""
    sentinel_operation_interval: float = 30.0
    """Minimum seconds between two encryptions by `check`, which otherwise reads: SoftHSM leaks on each derivation."""
    session_objects: int = 1_000_000
    """Objects that a module which leaks them may make before it needs a new process: 245 MB in SoftHSM."""
    reconnect_first: float = 0.05
    """Seconds between the first two attempts to reach a token that is away; doubled each time."""
    reconnect_longest: float = 1.0
    """Longest pause between two attempts, in seconds."""

    def __post_init__(self) -> None:
        if self.label is None and self.serial is None and self.slot is None:
            raise ValueError("name the token by label, serial or slot")
        if not (self.object_label and self.object_label.isascii() and self.object_label.isprintable()):
            raise ValueError("the object label must be printable ASCII")
        if self.sentinel is not None and len(self.sentinel) != OBJECT_ID_LENGTH:
            raise ValueError("the sentinel's object id must be 16 bytes")
        if self.sessions < 1 or self.queue_limit < 1:
            raise ValueError("at least one session and one waiting call are needed")
