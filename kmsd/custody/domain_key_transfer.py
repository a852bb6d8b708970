"""Files and confirmation codes of a transfer of domain keys between two tokens.

The receiving side writes a request with a public key; the sending side wraps new domain keys for it and writes the
transfer. Neither file is secret, and neither is signed: two people compare the codes. Otherwise, someone who exchanges
the request obtains the domain keys, and someone who exchanges the transfer knows them.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from typing import TypeVar

import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_der_public_key
from msgspec.structs import replace

FORMAT = 1
RSA_BITS = 3072
"""Bits of the receiving token's key."""
REQUEST_BYTES = 8192
"""Length of the longest request that is read."""
TRANSFER_BYTES = 4 * 1024 * 1024
"""Length of the longest transfer that is read."""
_CODE_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
"""Crockford's base 32: no I, L, O and U. Who reads one of the first three means 1 or 0."""
_MISREAD = str.maketrans("ILO", "110", " -")
_BITS, _GROUP = 5, 4
"""Bits of a character, and characters of a group."""
_CODE_BITS = 100
"""Bits of a code. No other key or transfer with the same code can be made."""
_CHECKED = b"kmsd domain key transfer 1"

T = TypeVar("T", "TransferRequest", "Transfer")


class NotSuchFile(Exception):
    """A file is not a request or transfer that this release reads, or is not whole. The text is for the operator."""


class _Head(msgspec.Struct, frozen=True):
    """Members of every version of both files."""

    type: str
    format: int


class TransferRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="kmsd domain key request"):
    """Content of a request."""

    format: int
    public_key: bytes
    """RSA public key, DER SubjectPublicKeyInfo, whose private half the receiving token holds for the moment."""
    token_serial: str
    """Serial number of the receiving token, as it says itself."""

    @property
    def code(self) -> str:
        """Confirmation code of the public key."""
        return confirmation_code(self.public_key)


class SentDomainKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A domain key that is sent, without its value."""

    domain_key_id: bytes
    """CKA_ID, the same in all tokens."""
    binding_key: bytes
    """Its binding key, wrapped under it."""
    check: bytes
    """MAC of `checked_text` by the binding key."""


class Copies(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The domain keys, wrapped for one receiving token."""

    recipient: bytes
    """SHA-256 of its public key."""
    wrapped: tuple[bytes, ...]
    """One for each domain key, in their order: AES key by RSAES-OAEP with SHA-1, domain key under it by RFC 5649."""


class Transfer(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="kmsd domain key transfer"):
    """Content of a transfer."""

    format: int
    token_serial: str
    """Serial number of the sending token."""
    domain_keys: tuple[SentDomainKey, ...]
    copies: tuple[Copies, ...]
    digest: bytes = b""
    """SHA-256 of the transfer with an empty digest."""

    @property
    def code(self) -> str:
        """Confirmation code of the whole transfer."""
        return confirmation_code(self.digest)

    def wrapped_for(self, public_key: bytes) -> Sequence[tuple[SentDomainKey, bytes]]:
        """Return the domain keys, each wrapped for this public key; nothing if there are no copies for it."""
        mine = (one.wrapped for one in self.copies if one.recipient == sha256(public_key).digest())
        return list(zip(self.domain_keys, next(mine, ()), strict=False))


def checked_text(domain_key_id: bytes) -> bytes:
    """Return the text whose MAC by the binding key shows that two tokens have the same domain key."""
    return _CHECKED + domain_key_id


def confirmation_code(content: bytes) -> str:
    """Return the first 100 bits of the SHA-256 of `content` in base 32, in groups of four, for people to compare."""
    number = int.from_bytes(sha256(content).digest(), "big") >> 256 - _CODE_BITS
    places = range(_CODE_BITS - _BITS, -_BITS, -_BITS)
    code = "".join(_CODE_ALPHABET[number >> place & 2**_BITS - 1] for place in places)
    return "-".join(code[at : at + _GROUP] for at in range(0, len(code), _GROUP))


def is_code(typed: str, code: str) -> bool:
    """True if a person typed this code; case, blanks and hyphens do not matter."""
    return _plain(typed) == _plain(code)


def _plain(code: str) -> str:
    return code.strip().upper().translate(_MISREAD)


def encoded_request(public_key: bytes, token_serial: str) -> str:
    """Return the content of a request file."""
    return _text(TransferRequest(FORMAT, public_key, token_serial))


def decoded_request(content: bytes) -> TransferRequest:
    """Return the content of a request file. Raises `NotSuchFile`."""
    request = _decoded(content, TransferRequest, "request")
    try:
        key = load_der_public_key(request.public_key)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise NotSuchFile(f"it holds no public key ({error})") from error
    if not isinstance(key, RSAPublicKey) or key.key_size != RSA_BITS:
        raise NotSuchFile(f"its public key is no RSA key of {RSA_BITS} bits")
    return request


def new_transfer(token_serial: str, domain_keys: Sequence[SentDomainKey], copies: Sequence[Copies]) -> Transfer:
    """Return a transfer with its digest."""
    transfer = Transfer(FORMAT, token_serial, tuple(domain_keys), tuple(copies))
    return replace(transfer, digest=_digest_of(transfer))


def transfer_text(transfer: Transfer) -> str:
    """Return the content of a transfer file."""
    return _text(transfer)


def decoded_transfer(content: bytes) -> Transfer:
    """Return the content of a transfer file. Raises `NotSuchFile`, also if a part of it is missing or changed."""
    transfer = _decoded(content, Transfer, "transfer")
    if transfer.digest != _digest_of(transfer):
        raise NotSuchFile("it is damaged: its SHA-256 is not the one that it names")
    if any(len(one.wrapped) != len(transfer.domain_keys) for one in transfer.copies) or not transfer.domain_keys:
        raise NotSuchFile("it does not hold every domain key for every recipient")
    return transfer


def _digest_of(transfer: Transfer) -> bytes:
    return sha256(msgspec.json.encode(replace(transfer, digest=b""))).digest()


def _text(content: TransferRequest | Transfer) -> str:
    return msgspec.json.format(msgspec.json.encode(content), indent=1).decode() + "\n"


def _decoded(content: bytes, kind: type[T], called: str) -> T:
    try:
        head = msgspec.json.decode(content, type=_Head)
        if head.format == FORMAT:
            return msgspec.json.decode(content, type=kind)
    except msgspec.DecodeError as error:
        raise NotSuchFile(f"it is no domain key {called}, or a part of it is missing ({error})") from error
    raise NotSuchFile(f"its format is {head.format}, and this release reads format {FORMAT}")
