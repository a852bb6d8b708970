"""Parts of the two forms in which a request carries a signature, the header form and the query form.

SDKs send the header form. The query form ("presigned") is for a request that a client passes on to another.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from functools import lru_cache

import msgspec

from kmsd.errors import (
    IncompleteSignatureException,
    InvalidSignatureException,
    MissingAuthenticationTokenException,
)
from kmsd.wire.sigv4 import canonical

SIGNATURE_LENGTH = 64
"""Length of an HMAC-SHA256 in lower-case hexadecimal digits."""

MISMATCH = (
    "The request signature we calculated does not match the signature you provided. Check your AWS Secret Access Key "
    "and signing method. Consult the service documentation for details."
)
"""AWS appends the canonical string it expected. kmsd does not: that would hand an attacker a debugger."""

MAX_EXPIRES = 604_800
"""Maximum of X-Amz-Expires in seconds: "the maximum is 604800 (seven days)"."""
MAX_PARAMETERS = 4_096
"""Characters of an Authorization header, or of one parameter of the query form except the token."""
MAX_SESSION_TOKEN = 8_192
MAX_DATE = 40
"""Characters of a date; the longest that RFC 5322 permits has 37."""

_STAMP = re.compile(r"[0-9]{8}T[0-9]{6}Z")
_EXPIRES = re.compile(r"[1-9][0-9]{0,5}")
_IN_HEADER = ("Credential", "Signature", "SignedHeaders")
_IN_QUERY = (
    "X-Amz-Algorithm",
    "X-Amz-Credential",
    "X-Amz-Signature",
    "X-Amz-SignedHeaders",
    "X-Amz-Date",
    "X-Amz-Expires",
)
PRESIGNED = frozenset(_IN_QUERY[:3])
"""One of these parameters makes a request a presigned one."""


class SigV4Fields(msgspec.Struct, frozen=True):
    """The parameters of a signature, from either form."""

    algorithm: str
    credential: str
    signed_headers: str
    signature: str
    timestamp: datetime
    stamp: str
    """The timestamp in the ISO 8601 basic form that is signed."""
    session_token: str | None
    query: str
    """The canonical query string, without the signature itself."""
    expires: timedelta | None
    """Period after the timestamp in which the request is valid; None in the header form."""


# --- The header form --------------------------------------------------------------------------------


@lru_cache(maxsize=1024)
def authorization(header: str) -> tuple[str, str, str, str, str]:
    """Return Algorithm, Credential, SignedHeaders and Signature of an Authorization header, and its faults.

    The parameters may come in any order, with or without spaces around commas.
    """
    if not header.lstrip().startswith("AWS4-"):
        # Basic, Bearer and the signatures before version 4 are no authentication here.
        raise MissingAuthenticationTokenException("Missing Authentication Token")
    if len(header) > MAX_PARAMETERS or not header.isascii() or not header.isprintable():
        raise IncompleteSignatureException("The Authorization header is too long or not printable ASCII.")
    algorithm, _, rest = header.strip().partition(" ")
    fields: dict[str, str] = {}
    for part in rest.split(",") if rest.strip() else []:
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals:
            raise IncompleteSignatureException(
                f"'{name}' not a valid key=value pair (missing equal-sign) in Authorization header."
            )
        if name in fields or name not in _IN_HEADER:
            raise IncompleteSignatureException(f"Authorization header has '{name}' twice, or should not have it.")
        fields[name] = value
    faults = "".join(
        f"Authorization header requires '{name}' parameter. " for name in _IN_HEADER if not fields.get(name)
    )
    return algorithm, fields.get("Credential", ""), fields.get("SignedHeaders", ""), fields.get("Signature", ""), faults


# --- The query form ---------------------------------------------------------------------------------


def from_query(pairs: list[tuple[str, str]], first: dict[str, int]) -> SigV4Fields:
    """Read the signature from the pairs of a query string. `first` has the positions of the headers."""
    fields: dict[str, str] = {}
    for name, value in pairs:
        if name.startswith("X-Amz-"):
            if name in fields:
                raise IncompleteSignatureException(f"The query-string parameter '{name}' is given more than once.")
            fields[name] = canonical.decoded(value)
    missing = [name for name in _IN_QUERY if not fields.get(name)]
    if missing:
        sentences = " ".join(f"AWS query-string parameters must include '{name}'." for name in missing)
        raise IncompleteSignatureException(f"{sentences} Re-examine the query-string parameters.")
    for name in _IN_QUERY:
        if len(fields[name]) > MAX_PARAMETERS or not fields[name].isascii() or not fields[name].isprintable():
            raise IncompleteSignatureException(f"'{name}' is too long or not printable ASCII.")
    for header in ("x-amz-date", "x-amz-security-token"):
        if header in first:
            raise InvalidSignatureException(f"'{header}' is given as a header of a request that its query signs.")
    expires = fields["X-Amz-Expires"]
    if not _EXPIRES.fullmatch(expires) or int(expires) > MAX_EXPIRES:
        raise IncompleteSignatureException(f"X-Amz-Expires must be a number from 1 to {MAX_EXPIRES}.")
    timestamp, stamp = instant(fields["X-Amz-Date"])
    token = fields.get("X-Amz-Security-Token")
    return SigV4Fields(
        fields["X-Amz-Algorithm"],
        fields["X-Amz-Credential"],
        fields["X-Amz-SignedHeaders"],
        _checked_signature(fields["X-Amz-Signature"]),
        timestamp,
        stamp,
        None if token is None else checked_token(token),
        # "The canonical query string must include all the query parameters … except X-Amz-Signature."
        canonical.query(pair for pair in pairs if pair[0] != "X-Amz-Signature"),
        timedelta(seconds=int(expires)),
    )


# --- Parts of both forms ----------------------------------------------------------------------------


def _checked_signature(signature: str) -> str:
    # A signature of another length is reported like any wrong one.
    if len(signature) != SIGNATURE_LENGTH or not signature.isascii():
        raise InvalidSignatureException(MISMATCH)
    return signature


def checked_token(token: str) -> str:
    """Return a session token of the right form. Raises IncompleteSignatureException."""
    if not 0 < len(token) <= MAX_SESSION_TOKEN or not token.isascii() or not token.isprintable():
        raise IncompleteSignatureException("The security token is empty, too long or not printable ASCII.")
    return token


def _no_date(text: str) -> IncompleteSignatureException:
    got = f" Got '{text}'." if len(text) <= MAX_DATE and text.isascii() and text.isprintable() else ""
    return IncompleteSignatureException(
        f"Date must be in ISO-8601 'basic format'.{got} See http://en.wikipedia.org/wiki/ISO_8601"
    )


@lru_cache(maxsize=64)
def instant(text: str) -> tuple[datetime, str]:
    """Return the time of an X-Amz-Date, and the text itself: `20150830T123600Z` and no other form."""
    # "The time stamp must be in UTC and in the following ISO 8601 format: YYYYMMDD'T'HHMMSS'Z'" (AWS General Reference,
    # "Handling dates in Signature Version 4").
    if not _STAMP.fullmatch(text):
        raise _no_date(text)
    try:
        return datetime.strptime(text, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC), text
    except ValueError as error:
        raise _no_date(text) from error


@lru_cache(maxsize=64)
def http_date(text: str) -> tuple[datetime, str]:
    """Return the time of a Date header, in either form, and its ISO basic form."""
    if _STAMP.fullmatch(text):
        return instant(text)
    if len(text) > MAX_DATE or not text.isascii():
        raise _no_date(text)
    try:
        at = parsedate_to_datetime(text)
        # "-0000" comes back naive: "the time was generated on a system that may be in a local time zone" (RFC 5322,
        # section 3.3). But botocore writes its UTC that way.
        at = at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    except (ValueError, OverflowError, TypeError, IndexError) as error:
        raise _no_date(text) from error
    return at, f"{at:%Y%m%dT%H%M%SZ}"
