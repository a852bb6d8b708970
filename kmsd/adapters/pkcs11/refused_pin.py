"""Memory of a PIN that the token refused, so that no process offers it again.

Tokens lock after a few wrong PINs. A service manager restarts a daemon, a client's connection activates its socket, an
operator runs a command: each would be one more attempt. The file beside the database names the token and holds a salted
hash of the PIN. It is written by whoever met the refusal, before they let go of the start lock, and removed after a
login that worked, or by `kmsd pin retry`. A PIN of another hash, or a token of another serial number, is offered.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from kmsd.linux.files import sync_folder
from kmsd.ports import PinRefused

_SCRYPT_N = 2**14


class PinRefusal(msgspec.Struct, frozen=True):
    """The content of the file."""

    serial: str
    salt: bytes
    digest: bytes
    """scrypt of the PIN."""
    refused_at: datetime
    reason: str
    """`CKR_PIN_INCORRECT`."""


def check(path: Path | None, serial: str, pin: bytes) -> None:
    """Raise `PinRefused` if this token refused this PIN before, or if the file cannot be read."""
    if path is None:
        return
    try:
        known = msgspec.json.decode(path.read_bytes(), type=PinRefusal)
    except FileNotFoundError:
        return
    except (OSError, msgspec.DecodeError) as error:
        raise PinRefused(f"{path} cannot be read: {error}; `kmsd pin retry` removes it") from error
    if known.serial == serial and hmac.compare_digest(known.digest, _digest(pin, known.salt)):
        raise PinRefused(
            f"the token refused this PIN on {known.refused_at:%Y-%m-%d at %H:%M:%S} UTC ({known.reason}); it is not "
            "offered again. Put the right PIN into its file, or run `kmsd pin retry` if the token has changed"
        )


def record(path: Path | None, serial: str, pin: bytes, reason: str) -> None:
    """Write the file; durable on return. Raises OSError."""
    if path is None:
        return
    salt = secrets.token_bytes(16)
    refusal = PinRefusal(serial, salt, _digest(pin, salt), datetime.now(UTC), reason)
    made = path.with_name(f"{path.name}.new")
    descriptor = os.open(made, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(msgspec.json.encode(refusal))
        file.flush()
        os.fsync(file.fileno())
    made.replace(path)
    sync_folder(path.parent)


def clear(path: Path | None) -> bool:
    """Remove the file. False if there was none. Raises OSError."""
    try:
        if path is None:
            return False
        path.unlink()
    except FileNotFoundError:
        return False
    return True


def _digest(pin: bytes, salt: bytes) -> bytes:
    return hashlib.scrypt(pin, salt=salt, n=_SCRYPT_N, r=8, p=1, dklen=32)
