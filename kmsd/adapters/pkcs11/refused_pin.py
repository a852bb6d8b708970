"""Record of a PIN that the token refused, so that no process offers it again.

Tokens lock after a few wrong PINs. A restart by the service manager, a connection to an activated socket or a command
of the operator would each be one more attempt. The file beside the database holds the token's serial number and a
salted hash of the PIN. The process that was refused writes it before it releases the start lock. A successful login or
`kmsd pin retry` removes it. A PIN with another hash is offered, and any PIN to a token with another serial number.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from kmsd.linux.files import replace_file
from kmsd.ports import PinRefused

_SCRYPT_N = 2**14


class PinRefusal(msgspec.Struct, frozen=True):
    """Content of the file."""

    serial: str
    salt: bytes
    digest: bytes
    """scrypt of the PIN."""
    refused_at: datetime
    reason: str
    """Name of the return code, such as `CKR_PIN_INCORRECT`."""


def check(path: Path | None, serial: str, pin: bytes) -> None:
    """Raise `PinRefused` if this token has refused this PIN, or if the file cannot be read."""
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
    replace_file(path, msgspec.json.encode(refusal))


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
