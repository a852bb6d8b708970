"""How to reach the token, and the limits of its use."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from kmsd.adapters.pkcs11.templates import OBJECT_ID_LENGTH

if TYPE_CHECKING:
    from kmsd.adapters.pkcs11.inline_policy import Mode


@dataclass(frozen=True, slots=True)
class TokenSettings:
    """Everything that the adapter must be told. Label, serial and slot name the token; all that are given must fit."""

    module: Path
    """The PKCS#11 module, a shared library."""
    pin: bytes = field(repr=False)
    """The user PIN, as read from its file; kept in memory for the return of a token that was away."""
    label: str | None = None
    """CKA label of the token."""
    serial: str | None = None
    """Its serial number."""
    slot: int | None = None
    """Its slot, for modules that number them for good."""
    object_label: str = "kmsd"
    """CKA_LABEL of every object that the daemon makes; ASCII."""
    sentinel: bytes | None = None
    """Object id of the key that proves that the token is there; None only while `kmsd init` makes it."""
    init_reserved: str | None = None
    """What the module wants as pReserved of C_Initialize (NSS: its configuration string)."""
    start_lock: Path | None = None
    """File that processes lock to initialise and log in one at a time; None if there is only one process."""
    refused_pin: Path | None = None
    """File that remembers a PIN which the token refused; None: nothing is remembered."""
    token_dir_sync: Path | None = None
    """Folder on whose file system syncfs is called before a new or destroyed object is acknowledged (SoftHSM)."""
    sessions: int = 8
    """Calls that may be inside the module at once, each on a thread and a session of its own."""
    queue_limit: int = 256
    """Calls that may wait for a thread; beyond it `TokenBusy`."""
    deadline: float = 5.0
    """Seconds after which a call on the request path is given up."""
    slow_deadline: float = 60.0
    """Seconds for making, destroying and listing objects."""
    start_deadline: float = 60.0
    """Seconds for the start: the lock, retries, login and the listing of all objects."""
    abandoned_limit: int = 8
    """Threads that may hang in the module past their deadline; beyond it every call fails at once."""
    inline: Mode = "auto"
    """Where calls of the data path run: `auto` puts the fast ones on the event loop."""
    inline_below: float = 100e-6
    """Seconds per call below which `auto` runs a call inline."""
    seal_messages: int = 2**20
    """Messages sealed under one derived key of XAES-256-GCM before a new nonce prefix is drawn."""
    derived_key_age: float = 300.0
    """Seconds that a derived key is kept, for sealing and for opening."""
    derived_keys: int = 4096
    """Derived keys that are kept at once."""
    sentinel_operation_interval: float = 30.0
    """`check` reads the sentinel each time, and works with it at most this often: SoftHSM leaks on each derivation."""
    reconnect_first: float = 0.05
    """Seconds between the first two attempts to reach a token that is away; doubled each time."""
    reconnect_longest: float = 1.0
    """The longest pause between two attempts."""

    def __post_init__(self) -> None:
        if self.label is None and self.serial is None and self.slot is None:
            raise ValueError("name the token by label, serial or slot")
        if not (self.object_label and self.object_label.isascii() and self.object_label.isprintable()):
            raise ValueError("the object label must be printable ASCII")
        if self.sentinel is not None and len(self.sentinel) != OBJECT_ID_LENGTH:
            raise ValueError("the sentinel's object id must be 16 bytes")
        if self.sessions < 1 or self.queue_limit < 1:
            raise ValueError("at least one session and one waiting call are needed")
