"""Format of SoftHSM2's token.object: the token's label, serial number and flags, and its key, sealed under each PIN.

As SoftHSM 2.6.1 reads it (ObjectFile.cpp, File.cpp, OSAttributes.h): numbers have 8 bytes, big-endian. First comes the
generation, which grows each time the file is written, and then each attribute: type, kind, value. Byte strings, maps
and sets begin with their length. Nothing marks the end of the file. SoftHSM reads a file that ends after any attribute
as a whole one.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from enum import IntEnum

import msgspec

_NUMBER = struct.Struct(">Q")
_VENDOR = 0x80000000 + 0x5348
"""CKA_VENDOR_SOFTHSM."""
_USER_PIN_INITIALIZED = 0x8
"""CKF_USER_PIN_INITIALIZED, which SoftHSM sets after the user's PIN, and clears before it deletes the PIN."""
_SLOT_MASK = 0x7FFFFFFF
"""SoftHSM's slot id is the end of the serial number, without the sign bit (SlotManager.cpp)."""


class _Type(IntEnum):
    """Attributes of token.object."""

    LABEL = _VENDOR + 1
    SERIAL = _VENDOR + 2
    FLAGS = _VENDOR + 3
    SO_PIN = _VENDOR + 4
    USER_PIN = _VENDOR + 5


class _Kind(IntEnum):
    """Kinds of values. The zeros that a power failure leaves in a file are none."""

    BOOLEAN = 1
    NUMBER = 2
    BYTES = 3
    MAP = 4
    MECHANISMS = 5


class Damaged(Exception):
    """The file is empty or cut off, or lacks an attribute that every token has."""


class UnknownFormat(Exception):
    """The file has a kind of value that SoftHSM 2.6.1 does not write. It may be whole."""


class TokenObject(msgspec.Struct, frozen=True):
    """A whole token.object."""

    content: bytes
    label: str
    serial: str
    values: Mapping[int, bytes]
    """All attributes but the flags, which each wrong PIN changes."""

    @property
    def has_user_pin(self) -> bool:
        """False from the token's initialisation until its user gets a PIN."""
        return bool(self.values.get(_Type.USER_PIN))

    @property
    def slot(self) -> int:
        """Slot id of the token."""
        return int(self.serial[-8:], 16) & _SLOT_MASK

    def is_same(self, other: TokenObject) -> bool:
        """True if both hold the same token and the same PINs. Each login writes another generation."""
        return self.values == other.values


def parse(content: bytes) -> TokenObject:
    """Return what the content of a token.object says. Raises `Damaged`, `UnknownFormat`."""
    try:
        _NUMBER.unpack_from(content)
        found = dict(_attributes(content))
        (flags,) = _NUMBER.unpack(found.pop(_Type.FLAGS))
        label, serial = (found[name].decode().rstrip(" \0") for name in (_Type.LABEL, _Type.SERIAL))
        has_pins = found[_Type.SO_PIN] and (found.get(_Type.USER_PIN) or not flags & _USER_PIN_INITIALIZED)
    except (struct.error, KeyError, UnicodeDecodeError) as error:
        raise Damaged(f"{len(content)} bytes, cut off or without an attribute") from error
    if not (serial and has_pins):
        raise Damaged("a value is missing")
    return TokenObject(content, label, serial, found)


def _attributes(content: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield types and values. Raises `struct.error` if the last one is cut off, `Damaged`, `UnknownFormat`."""
    at = _NUMBER.size
    while at < len(content):
        (name,), (kind,) = (_NUMBER.unpack_from(content, at + place) for place in (0, _NUMBER.size))
        start, length = _extent(content, at + 2 * _NUMBER.size, kind)
        at = start + length
        if at > len(content):
            raise Damaged("cut off in a value")
        yield name, content[start:at]


def _extent(content: bytes, at: int, kind: int) -> tuple[int, int]:
    """Return where a value's bytes begin, and how many there are."""
    match kind:
        case 0:
            raise Damaged("zeros")
        case _Kind.BOOLEAN:
            return at, 1
        case _Kind.NUMBER:
            return at, _NUMBER.size
        case _Kind.BYTES | _Kind.MAP | _Kind.MECHANISMS:
            (count,) = _NUMBER.unpack_from(content, at)
            return at + _NUMBER.size, count * (_NUMBER.size if kind == _Kind.MECHANISMS else 1)
        case _:
            raise UnknownFormat(f"kind of value {kind}")
