"""A request's claimed signer, time and scope, and verification of its signature with a signing key.

`kmsd.wire.sigv4.parse` creates signed requests and checks their form; nothing here does.
"""

from __future__ import annotations

import hmac
import secrets
from datetime import datetime
from functools import lru_cache
from typing import NoReturn

import msgspec

from kmsd.domain.principal import AuthenticatedCaller, Caller
from kmsd.errors import InvalidSignatureException, UnrecognizedClientException

ALGORITHM = "AWS4-HMAC-SHA256"
TERMINATOR = "aws4_request"
SIGNATURE_LENGTH = 64
"""Length of an HMAC-SHA256 in lower-case hexadecimal digits."""

MISMATCH = (
    "The request signature we calculated does not match the signature you provided. Check your AWS Secret Access Key "
    "and signing method. Consult the service documentation for details."
)
"""AWS appends the canonical string it expected. kmsd does not: that would hand an attacker a debugger."""

_MAX_CACHED_NAMES = 64
"""Maximum number of headers of a request whose names are cached."""


@lru_cache(maxsize=1024)
def first_positions(names: tuple[str, ...]) -> dict[str, int]:
    """Return the first position of each lower-case name. Clients send the same names in the same order."""
    return {name.lower(): position for position, name in reversed(tuple(enumerate(names)))}


_UNMATCHED_KEY = secrets.token_bytes(32)
"""A signing key that no secret has. The same in all workers of one fork server."""


class RawRequest(msgspec.Struct, frozen=True):
    """A request as received: not normalised, nothing dropped."""

    method: str
    target: str
    """Path and query of the request line, still encoded."""
    headers: tuple[tuple[str, str], ...]
    """In the order received, with duplicates; bytes as UTF-8 with surrogate escapes, so that they can be restored."""
    body: bytes
    names: tuple[str, ...] = ()
    """Header names in order; derived from `headers`, like the two fields below."""
    values: tuple[str, ...] = ()
    first: dict[str, int] = {}
    """Position of the first header of each lower-case name."""

    def __post_init__(self) -> None:
        """Split names and values once, for all code that reads headers."""
        if self.headers:
            names, values = zip(*self.headers, strict=True)
            first = first_positions(names) if len(names) <= _MAX_CACHED_NAMES else first_positions.__wrapped__(names)
            set_field = msgspec.structs.force_setattr
            set_field(self, "names", names)
            set_field(self, "values", values)
            set_field(self, "first", first)

    def header(self, name: str) -> str | None:
        """Return the first value of the header with this lower-case name."""
        position = self.first.get(name)
        return None if position is None else self.values[position]


class SignedRequest(msgspec.Struct, frozen=True):
    """A signature and what it covers: well formed, fresh and in scope, but **not yet verified**.

    Act only on what `verify` has accepted.
    """

    access_key_id: str
    date: str
    """`yyyymmdd`, of the credential scope; equal to the date of the timestamp."""
    region: str
    service: str
    timestamp: datetime
    session_token: str | None
    signed_headers: tuple[str, ...]
    signature: str
    """64 ASCII characters."""
    query_form: bool
    """True if the signature was in the query string (a presigned request), not in the Authorization header."""
    canonical_request: bytes
    """The text whose hash was signed."""
    string_to_sign: bytes
    """The text that the signing key was applied to."""


def signing_key(secret: str, date: str, region: str, service: str) -> bytes:
    """Derive the key that `secret` signs with on this day, in this region, for this service. It reveals no other."""
    key = f"AWS4{secret}".encode()
    for part in (date, region, service, TERMINATOR):
        key = hmac.digest(key, part.encode(), "sha256")
    return key


def verify(signed_request: SignedRequest, key: bytes) -> None:
    """Raise `InvalidSignatureException` unless `key` made the signature. The comparison takes constant time."""
    expected = hmac.digest(key, signed_request.string_to_sign, "sha256").hex()
    if not hmac.compare_digest(expected, signed_request.signature):
        raise InvalidSignatureException(MISMATCH)


def authenticate(signed_request: SignedRequest, key: bytes, caller: Caller) -> AuthenticatedCaller:
    """Return `caller`, the owner of the access key, authenticated: `key` must have made the signature.

    Raises InvalidSignatureException.
    """
    verify(signed_request, key)
    return AuthenticatedCaller(caller)


def reject_unknown_key(signed_request: SignedRequest) -> NoReturn:
    """Refuse an unknown or disabled access key, after the same work as for a wrong signature."""
    try:
        verify(signed_request, _UNMATCHED_KEY)
    except InvalidSignatureException:
        # Always raised; the call is made for the time that it takes.
        raise UnrecognizedClientException("The security token included in the request is invalid.") from None
    raise UnrecognizedClientException("The security token included in the request is invalid.")
