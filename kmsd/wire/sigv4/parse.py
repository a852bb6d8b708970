"""Signature Version 4: from a received request to one whose signature a signing key can verify. No I/O.

Checks run in the order observed in AWS's JSON services, so that a request with two faults gets the same error: form,
date, signed headers, algorithm, credential, scope. The caller then finds the access key and calls `verify`, or
`reject_unknown_key`.

Header names, credential and list of signed headers are the same in every call of a client. Their parsed forms are kept
in bounded LRU caches. An entry depends on nothing but its key, so it is never out of date.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Callable, Collection
from datetime import datetime, timedelta
from functools import lru_cache
from operator import itemgetter
from typing import Any

import msgspec

from kmsd.errors import (
    IncompleteSignatureException,
    InvalidSignatureException,
    MissingAuthenticationTokenException,
)
from kmsd.wire.sigv4 import canonical
from kmsd.wire.sigv4.claim import (
    ALGORITHM,
    TERMINATOR,
    RawRequest,
    SignedRequest,
    first_positions,
    reject_unknown_key,
    signing_key,
    verify,
)
from kmsd.wire.sigv4.forms import SigV4Fields, read

__all__ = ["RawRequest", "SignedRequest", "parse", "reject_unknown_key", "signing_key", "verify"]

SKEW = timedelta(minutes=15)
"""Maximum difference of a client's clock, in either direction."""
DATE_LENGTH = len("20150830")
"""Length of a timestamp's date, which the credential scope must repeat: a signing key is valid for one day."""
MAX_HEADERS = 64
MAX_NAME = 128
"""Characters of a header's name."""

ONCE = ("authorization", "date", "host", "x-amz-content-sha256", "x-amz-date", "x-amz-security-token", "x-amz-target")
"""Headers that kmsd acts on. Given twice, the one acted on might not be the one that was checked."""

_ACCESS_KEY_ID = re.compile(r"[A-Za-z0-9_]{1,128}")
_SCOPE_ELEMENTS = 5


class _HeaderLayout(msgspec.Struct, frozen=True):
    """Positions of the headers, for one sequence of header names."""

    positions: dict[str, list[int]]
    """Positions by lower-case name."""
    first: dict[str, int]
    ours: tuple[str, ...]
    """Names that begin with `x-amz-`."""


class _HeaderPlan(msgspec.Struct, frozen=True):
    """Everything that depends only on the header names and a signature's constant parameters, not on header values."""

    access_key_id: str
    date: str
    region: str
    service: str
    terminator: str
    signed_headers: tuple[str, ...]
    template: str
    """Canonical headers and their list, with one `%s` for each signed header's value."""
    take: Callable[[tuple[str, ...]], Any]
    """Takes the first values of the signed headers; returns a bare string if there is only one."""
    repeated: tuple[tuple[int, list[int]], ...]
    """Signed headers that occur more than once: index among the values taken, and all positions."""


def parse(received: RawRequest, *, region: str, services: Collection[str], now: datetime) -> SignedRequest:
    """Read the signature of a request. The result is well formed, fresh and in scope, but **not verified**.

    Raises only `MissingAuthenticationTokenException`, `IncompleteSignatureException` or `InvalidSignatureException`,
    whatever the request holds.
    """
    if not received.headers:
        raise MissingAuthenticationTokenException("Missing Authentication Token")
    names, values = received.names, received.values
    layout = _layout(names)
    first, target = layout.first, received.target
    fields = read(target, first, values)
    _check_time(fields, now)
    plan = _plan(names, fields.algorithm, fields.credential, fields.signed_headers, fields.expires is not None)
    # "If the credential scope does not specify the same date as the x-amz-date header, the signature verification step
    # fails"; so for region and service (IAM User Guide, "Troubleshoot signed requests for AWS APIs").
    scope = (plan.region, plan.terminator, plan.date)
    if scope != (region, TERMINATOR, fields.stamp[:DATE_LENGTH]) or plan.service not in services:
        raise InvalidSignatureException(_scope_faults(plan, fields.stamp, region, services))
    content = first.get("x-amz-content-sha256")
    body_hash = "" if content is None else _check_body(values[content], received.body)
    # Every SDK sends `/`.
    path = "/" if target == "/" else canonical.path(target.partition("?")[0])
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
        fields.stamp,
        f"{received.method}\n{path}\n{fields.query}\n{_canonical_headers(plan, values)}\n",
        received.body,
        values,
        first,
        body_hash,
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


def _scope_faults(plan: _HeaderPlan, stamp: str, region: str, services: Collection[str]) -> str:
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


def _check_body(stated: str, body: bytes) -> str:
    """Return the body's hash, which must equal the stated one."""
    found = hashlib.sha256(body).hexdigest()
    # UNSIGNED-PAYLOAD and STREAMING-… are for S3: here a signature always covers the body.
    if not stated.isascii() or not hmac.compare_digest(stated, found):
        raise InvalidSignatureException(
            "The value of 'x-amz-content-sha256' is not the SHA-256 of the body; unsigned and streaming payloads are "
            "not supported."
        )
    return found


def _canonical_headers(plan: _HeaderPlan, values: tuple[str, ...]) -> str:
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


def _canonical_headers_general(plan: _HeaderPlan, values: tuple[str, ...]) -> str:
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


# --- Cached -------------------------------------------------------------------------------------------


@lru_cache(maxsize=1024)
def _layout(names: tuple[str, ...]) -> _HeaderLayout:
    if len(names) > MAX_HEADERS or any(len(name) > MAX_NAME or not name.isascii() for name in names):
        raise IncompleteSignatureException("The request has too many headers, or one with too long or too odd a name.")
    positions: dict[str, list[int]] = {}
    for position, name in enumerate(names):
        positions.setdefault(name.lower(), []).append(position)
    for name in ONCE:
        if len(positions.get(name, ())) > 1:
            raise IncompleteSignatureException(f"The header '{name}' is given more than once.")
    return _HeaderLayout(
        positions,
        first_positions(names),
        tuple(name for name in positions if name.startswith("x-amz-")),
    )


@lru_cache(maxsize=1024)
def _plan(names: tuple[str, ...], algorithm: str, credential: str, signed: str, in_query: bool) -> _HeaderPlan:  # noqa: FBT001  # lru_cache is slower with keywords
    layout = _layout(names)
    listed = signed.split(";")
    _check_signed_headers(layout, listed, in_query=in_query)
    if algorithm != ALGORITHM:
        raise IncompleteSignatureException(f"Unsupported AWS 'algorithm': '{algorithm}' (only {ALGORITHM} for now). ")
    # The access key id, then the credential scope: "YYYYMMDD/region/service/aws4_request". AWS was observed to ignore
    # trailing slashes.
    elements = credential.rstrip("/").split("/")
    if len(elements) != _SCOPE_ELEMENTS:
        raise IncompleteSignatureException(
            "Credential must have exactly 5 slash-delimited elements, e.g. keyid/date/region/service/term, "
            f"got '{credential}'"
        )
    if not _ACCESS_KEY_ID.fullmatch(elements[0]):
        raise IncompleteSignatureException("The access key id in Credential is not one: up to 128 letters and digits.")
    key_id, date, region, service, terminator = elements
    return _HeaderPlan(
        key_id,
        date,
        region,
        service,
        terminator,
        tuple(listed),
        "".join(f"{name.replace('%', '%%')}:%s\n" for name in listed) + "\n" + signed.replace("%", "%%"),
        itemgetter(*(layout.first[name] for name in listed)),
        tuple((n, layout.positions[name]) for n, name in enumerate(listed) if len(layout.positions[name]) > 1),
    )


def _check_signed_headers(layout: _HeaderLayout, listed: list[str], *, in_query: bool) -> None:
    # "Only the host and any x-amz-* headers are required" (IAM User Guide, "Create a signed AWS API request").
    demanded = ["host", *layout.ours]
    if not in_query and "x-amz-date" not in layout.first:
        demanded.append("date")
    for name in demanded:
        if name not in listed:
            what = "'Host' or ':authority'" if name == "host" else f"'{name}'"
            raise InvalidSignatureException(f"{what} must be a 'SignedHeader' in the AWS Authorization.")
    # "Header names must use lowercase characters and must appear in alphabetical order" (the same page).
    if listed != sorted(set(listed)):
        # Upper case fails below: header names are looked up in lower case.
        raise IncompleteSignatureException("SignedHeaders must be sorted, and name each header once.")
    for name in listed:
        if name not in layout.first:
            raise InvalidSignatureException(f"'{name}' is a 'SignedHeader', but the request has no such header.")
