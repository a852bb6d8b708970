"""Checks of a signature's constant part, cached: header names, algorithm, credential and list of signed headers.

They are the same in every call of a client. An entry of the caches depends on its key alone, so it is never out of
date. Errors are not cached.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from operator import itemgetter
from typing import Any

import msgspec

from kmsd.errors import IncompleteSignatureException, InvalidSignatureException

ALGORITHM = "AWS4-HMAC-SHA256"
MAX_HEADERS = 64
MAX_NAME = 128
"""Characters of a header's name."""

ONCE = ("authorization", "date", "host", "x-amz-content-sha256", "x-amz-date", "x-amz-security-token", "x-amz-target")
"""Headers that kmsd acts on. Given twice, the one acted on might not be the one that was checked."""

_ACCESS_KEY_ID = re.compile(r"[A-Za-z0-9_]{1,128}")
_SCOPE_ELEMENTS = 5


@lru_cache(maxsize=1024)
def first_positions(names: tuple[str, ...]) -> dict[str, int]:
    """Return the first position of each lower-case name. Clients send the same names in the same order."""
    return {name.lower(): position for position, name in reversed(tuple(enumerate(names)))}


class HeaderLayout(msgspec.Struct, frozen=True):
    """Positions of the headers, for one sequence of header names."""

    positions: dict[str, list[int]]
    """Positions by lower-case name."""
    first: dict[str, int]
    ours: tuple[str, ...]
    """Names that begin with `x-amz-`."""


class HeaderPlan(msgspec.Struct, frozen=True):
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


@lru_cache(maxsize=1024)
def header_layout(names: tuple[str, ...]) -> HeaderLayout:
    """Return the positions of the headers. Raises IncompleteSignatureException."""
    if len(names) > MAX_HEADERS or any(len(name) > MAX_NAME or not name.isascii() for name in names):
        raise IncompleteSignatureException("The request has too many headers, or one with too long or too odd a name.")
    positions: dict[str, list[int]] = {}
    for position, name in enumerate(names):
        positions.setdefault(name.lower(), []).append(position)
    for name in ONCE:
        if len(positions.get(name, ())) > 1:
            raise IncompleteSignatureException(f"The header '{name}' is given more than once.")
    return HeaderLayout(
        positions,
        first_positions(names),
        tuple(name for name in positions if name.startswith("x-amz-")),
    )


@lru_cache(maxsize=1024)
def header_plan(names: tuple[str, ...], algorithm: str, credential: str, signed: str, in_query: bool) -> HeaderPlan:  # noqa: FBT001  # lru_cache is slower with keywords
    """Return the plan of a signature. Raises IncompleteSignatureException, InvalidSignatureException."""
    layout = header_layout(names)
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
    return HeaderPlan(
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


def _check_signed_headers(layout: HeaderLayout, listed: list[str], *, in_query: bool) -> None:
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
