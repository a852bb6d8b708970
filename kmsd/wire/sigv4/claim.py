"""Signature Version 4: the claim that a request makes, and its verification with a signing key. No I/O.

Checks run in the order observed in AWS's JSON services, so that a request with two faults gets the same error: form,
date, signed headers, algorithm, credential, scope. The caller then finds the access key and calls `authenticate`, or
`reject_unknown_key`.

`header_plan` has the part that depends only on header names and constant parameters, and its caches; `forms` has the
parts of the two forms.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Collection
from datetime import datetime, timedelta
from hashlib import sha256
from typing import NoReturn

import msgspec

from kmsd.domain.principal import AuthenticatedCaller, Caller
from kmsd.errors import (
    IncompleteSignatureException,
    InvalidSignatureException,
    MissingAuthenticationTokenException,
    UnrecognizedClientException,
)
from kmsd.wire.sigv4 import canonical
from kmsd.wire.sigv4.forms import (
    MISMATCH,
    PRESIGNED,
    SIGNATURE_LENGTH,
    SigV4Fields,
    authorization,
    checked_token,
    from_query,
    http_date,
    instant,
)
from kmsd.wire.sigv4.header_plan import ALGORITHM, HeaderPlan, first_positions, header_layout, header_plan

TERMINATOR = "aws4_request"
_MAX_CACHED_NAMES = 64
"""Maximum number of headers of a request whose names are cached."""


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


# --- From a received request to a claim --------------------------------------------------------------

SKEW = timedelta(minutes=15)
"""Maximum difference of a client's clock, in either direction."""
DATE_LENGTH = len("20150830")
"""Length of a timestamp's date, which the credential scope must repeat: a signing key is valid for one day."""

_BYTES_AS_RECEIVED = "utf-8", "surrogateescape"


def parse(received: RawRequest, *, region: str, services: Collection[str], now: datetime) -> SignedRequest:
    """Read the signature of a request. The result is well formed, fresh and in scope, but **not verified**.

    Raises only `MissingAuthenticationTokenException`, `IncompleteSignatureException`, `InvalidSignatureException`.
    """
    if not received.headers:
        raise MissingAuthenticationTokenException("Missing Authentication Token")
    names, values = received.names, received.values
    first, target = header_layout(names).first, received.target
    fields = _read(target, first, values)
    if fields.expires is not None or abs(fields.timestamp - now) > SKEW:
        _check_time(fields, now)
    plan = header_plan(names, fields.algorithm, fields.credential, fields.signed_headers, fields.expires is not None)
    # "If the credential scope does not specify the same date as the x-amz-date header, the signature verification step
    # fails"; so for region and service (IAM User Guide, "Troubleshoot signed requests for AWS APIs").
    scope = (plan.region, plan.terminator, plan.date)
    if scope != (region, TERMINATOR, fields.stamp[:DATE_LENGTH]) or plan.service not in services:
        raise InvalidSignatureException(_scope_faults(plan, fields.stamp, region, services))
    content = first.get("x-amz-content-sha256")
    body_hash = sha256(received.body).hexdigest()
    if content is not None:
        _check_body(values[content], body_hash)
    path = "/" if target == "/" else canonical.path(target.partition("?")[0])  # every SDK sends `/`
    headers = _canonical_headers(plan, values)
    canonical_request = f"{received.method}\n{path}\n{fields.query}\n{headers}\n{body_hash}".encode(*_BYTES_AS_RECEIVED)
    scope_text = f"{plan.date}/{region}/{plan.service}/{TERMINATOR}"
    digest = sha256(canonical_request).hexdigest()
    return SignedRequest(
        plan.access_key_id,
        plan.date,
        region,
        plan.service,
        fields.timestamp,
        fields.session_token,
        plan.signed_headers,
        fields.signature,
        fields.expires is not None,
        canonical_request,
        f"{ALGORITHM}\n{fields.stamp}\n{scope_text}\n{digest}".encode(),
    )


def _read(target: str, first: dict[str, int], values: tuple[str, ...]) -> SigV4Fields:
    """Read the signature from the Authorization header or the query string; both at once are refused.

    `first` maps each lower-case header name to the position of its first value in `values`.
    """
    query = canonical.query_pairs(target.partition("?")[2]) if "?" in target else []
    presigned = bool(query) and not PRESIGNED.isdisjoint(dict(query))
    position = first.get("authorization")
    if position is None:
        if presigned:
            return from_query(query, first)
        raise MissingAuthenticationTokenException("Missing Authentication Token")
    if presigned:
        raise InvalidSignatureException("A request is signed by its Authorization header or by its query, not by both.")
    header = values[position]
    signature = header[-SIGNATURE_LENGTH:]
    if signature.isalnum() and header.endswith("Signature=", 0, -SIGNATURE_LENGTH):
        # The signature comes last, as every SDK writes it. The text before it hardly changes from call to call.
        algorithm, credential, signed_headers, _, faults = authorization(header[:-SIGNATURE_LENGTH] + "-")
    else:
        algorithm, credential, signed_headers, signature, faults = authorization(header)
    date = first.get("x-amz-date")
    if date is not None:
        timestamp, stamp = instant(values[date])
    elif "date" in first:
        timestamp, stamp = http_date(values[first["date"]])
    else:
        faults += "Authorization header requires existence of either a 'X-Amz-Date' or a 'Date' header. "
        raise IncompleteSignatureException(faults.rstrip())
    if faults:
        raise IncompleteSignatureException(faults.rstrip())
    # A signature of another length is reported like any wrong one.
    if len(signature) != SIGNATURE_LENGTH or not signature.isascii():
        raise InvalidSignatureException(MISMATCH)
    token = first.get("x-amz-security-token")
    session_token = None if token is None else checked_token(values[token])
    canonical_query = canonical.query(query) if query else ""
    return SigV4Fields(
        algorithm, credential, signed_headers, signature, timestamp, stamp, session_token, canonical_query, None
    )


def _check_time(fields: SigV4Fields, now: datetime) -> None:
    # The wording is AWS's: "Signature expired: date is now earlier than date", "Signature not yet
    # current: date is still later than date" (IAM User Guide, "Troubleshoot signed requests for AWS APIs").
    timestamp = fields.timestamp
    if fields.expires is not None:
        # Subtract from now, not add to the timestamp, which may be at the end of the calendar.
        if timestamp <= now - fields.expires:
            end = f"{timestamp + fields.expires:%Y%m%dT%H%M%SZ}"
            raise InvalidSignatureException(f"Signature expired: {end} is now earlier than {now:%Y%m%dT%H%M%SZ}")
    elif timestamp < now - SKEW:
        raise InvalidSignatureException(
            f"Signature expired: {fields.stamp} is now earlier than {now - SKEW:%Y%m%dT%H%M%SZ} "
            f"({now:%Y%m%dT%H%M%SZ} - 15 min.)"
        )
    if timestamp > now + SKEW:
        raise InvalidSignatureException(
            f"Signature not yet current: {fields.stamp} is still later than {now + SKEW:%Y%m%dT%H%M%SZ} "
            f"({now:%Y%m%dT%H%M%SZ} + 15 min.)"
        )


def _scope_faults(plan: HeaderPlan, stamp: str, region: str, services: Collection[str]) -> str:
    faults = []
    if plan.region != region:
        faults.append(f"Credential should be scoped to a valid region, not '{plan.region}'. ")
    if plan.service not in services:
        known = ", ".join(f"'{service}'" for service in sorted(services))
        faults.append(f"Credential should be scoped to correct service: {known}. ")
    if plan.terminator != TERMINATOR:
        faults.append(f"Credential should be scoped with a valid terminator: '{TERMINATOR}', not '{plan.terminator}'. ")
    if plan.date != stamp[:DATE_LENGTH]:
        faults.append(
            "Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP: "
            f"'{plan.date}' != '{stamp[:DATE_LENGTH]}', from '{stamp}'."
        )
    return "".join(faults)


def _check_body(stated: str, found: str) -> None:
    """Check that the body's hash is the stated one. Raises InvalidSignatureException."""
    # UNSIGNED-PAYLOAD and STREAMING-… are for S3: here a signature always covers the body.
    if not stated.isascii() or not hmac.compare_digest(stated, found):
        raise InvalidSignatureException(
            "The value of 'x-amz-content-sha256' is not the SHA-256 of the body; unsigned and streaming payloads are "
            "not supported."
        )


def _canonical_headers(plan: HeaderPlan, values: tuple[str, ...]) -> str:
    text: str = plan.template % plan.take(values)
    if (
        plan.repeated
        or "  " in text
        or ": " in text
        or " \n" in text
        or "\t" in text
        or text.count("\n") != len(plan.signed_headers) + 1
    ):
        return _canonical_headers_general(plan, values)
    return text


def _canonical_headers_general(plan: HeaderPlan, values: tuple[str, ...]) -> str:
    """Slow path: trim values, join repeated headers, refuse line breaks."""
    taken = plan.take(values)
    # "… and separate the values for a multi-value header using commas" (IAM User Guide, "Create a signed AWS API
    # request").
    parts = [taken] if isinstance(taken, str) else list(taken)
    for number, positions in plan.repeated:
        parts[number] = ",".join(canonical.header_value(values[position]) for position in positions)
    parts = [canonical.header_value(part) for part in parts]
    if any("\n" in part for part in parts):
        # A line break would let one header's value pass for another header.
        raise IncompleteSignatureException("A signed header holds a line break.")
    return plan.template % tuple(parts)
