"""What a request claims about who signed it, when and over what; and whether a signing key agrees.

`kmsd.wire.sigv4.parse` makes claims; nothing here decides whether a claim is well formed.
"""

from __future__ import annotations

import hmac
import secrets
from datetime import datetime
from functools import lru_cache
from hashlib import sha256
from typing import NoReturn

import msgspec

from kmsd.domain.principal import AuthenticatedCaller, Caller
from kmsd.errors import InvalidSignatureException, UnrecognizedClientException

ALGORITHM = "AWS4-HMAC-SHA256"
TERMINATOR = "aws4_request"
SIGNATURE_LENGTH = 64
"""Lower-case hexadecimal digits of an HMAC-SHA256."""

MISMATCH = (
    "The request signature we calculated does not match the signature you provided. Check your AWS Secret Access Key "
    "and signing method. Consult the service documentation for details."
)
"""AWS goes on with the canonical string it expected; we do not: that would hand an attacker a debugger."""

_MAX_CACHED_NAMES = 64
"""Headers of a request whose names are worth remembering."""


@lru_cache(maxsize=1024)
def first_positions(names: tuple[str, ...]) -> dict[str, int]:
    """Where the first header of each lower-case name stands. Clients send the same names in the same order."""
    return {name.lower(): position for position, name in reversed(tuple(enumerate(names)))}


_NOBODY = secrets.token_bytes(32)
"""The signing key of a secret that nobody has; all workers of one zygote have the same."""


class RawRequest(msgspec.Struct, frozen=True):
    """A request as it came off the wire; nothing normalised, nothing lost."""

    method: str
    target: str
    """Path and query of the request line, still encoded."""
    headers: tuple[tuple[str, str], ...]
    """In the order received, duplicates kept; bytes as UTF-8 with surrogate escapes, so that they can be had back."""
    body: bytes
    names: tuple[str, ...] = ()
    """Of the headers; follows from them, as the next does."""
    values: tuple[str, ...] = ()
    first: dict[str, int] = {}
    """Where the first header of each lower-case name stands."""

    def __post_init__(self) -> None:
        """Part names and values once: all that reads headers reads them so."""
        if self.headers:
            names, values = zip(*self.headers, strict=True)
            first = first_positions(names) if len(names) <= _MAX_CACHED_NAMES else first_positions.__wrapped__(names)
            set_field = msgspec.structs.force_setattr
            set_field(self, "names", names)
            set_field(self, "values", values)
            set_field(self, "first", first)

    def header(self, name: str) -> str | None:
        """The first value of the header with this lower-case name."""
        position = self.first.get(name)
        return None if position is None else self.values[position]


class SignedRequest(msgspec.Struct, frozen=True):
    """A signature and what it is said to cover: well formed, in time and in scope, but **not yet proven**.

    Only what `verify` has accepted may be acted upon.
    """

    access_key_id: str
    date: str
    """`yyyymmdd`, of the credential scope; equal to the timestamp's."""
    region: str
    service: str
    timestamp: datetime
    session_token: str | None
    signed_headers: tuple[str, ...]
    signature: str
    """64 ASCII characters."""
    query_form: bool
    """Whether the signature stood in the query string (a presigned request), not in the Authorization header."""
    _stamp: str
    _canonical_front: str
    """Method, path, query, headers and signed-header list, each with its line end: all but the body's hash."""
    _body: bytes
    _values: tuple[str, ...]
    _first: dict[str, int]
    _body_hash: str = ""
    """In lower-case hexadecimal, if it is known: bodies of log events are worth hashing once."""

    def header(self, name: str) -> str | None:
        """The first value of the header with this lower-case name; X-Amz-* and Host are there at most once."""
        position = self._first.get(name)
        return None if position is None else self._values[position]

    @property
    def canonical_request(self) -> bytes:
        """The text whose hash was signed. Computed on each access."""
        text = self._canonical_front + (self._body_hash or sha256(self._body).hexdigest())
        return text.encode("utf-8", "surrogateescape")

    @property
    def string_to_sign(self) -> bytes:
        """What the signing key was applied to. Computed on each access."""
        return (
            f"{ALGORITHM}\n{self._stamp}\n{self.date}/{self.region}/{self.service}/{TERMINATOR}\n"
            f"{sha256(self.canonical_request).hexdigest()}"
        ).encode()


def signing_key(secret: str, date: str, region: str, service: str) -> bytes:
    """The key that `secret` signs with on this day, in this region, for this service; it reveals no other."""
    key = f"AWS4{secret}".encode()
    for part in (date, region, service, TERMINATOR):
        key = hmac.digest(key, part.encode(), "sha256")
    return key


def verify(claim: SignedRequest, key: bytes) -> None:
    """Raise `InvalidSignatureException` unless `key` made the claim's signature. The comparison takes constant time."""
    expected = hmac.digest(key, claim.string_to_sign, "sha256").hex()
    if not hmac.compare_digest(expected, claim.signature):
        raise InvalidSignatureException(MISMATCH)


def authenticate(claim: SignedRequest, key: bytes, caller: Caller) -> AuthenticatedCaller:
    """`caller`, to whom the claim's access key belongs, once `key` is shown to have signed.

    Raises InvalidSignatureException.
    """
    verify(claim, key)
    return AuthenticatedCaller(caller)


def reject_unknown_key(claim: SignedRequest) -> NoReturn:
    """Refuse a claim whose access key is unknown or disabled, after the same work as a wrong signature costs."""
    try:
        verify(claim, _NOBODY)
    except InvalidSignatureException:
        # Expected always; the point is the time that it took.
        raise UnrecognizedClientException("The security token included in the request is invalid.") from None
    raise UnrecognizedClientException("The security token included in the request is invalid.")
