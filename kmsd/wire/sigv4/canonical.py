"""Canonical form of a request's path, query and header values, for Signature Version 4. No I/O.

The rules are those of every service but S3: the path is normalised and encoded once more ("URI-encode each path
segment twice", IAM User Guide, "Create a signed AWS API request").
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import quote, unquote_to_bytes

_BLANKS = re.compile("[ \t]+")
_UNRESERVED = "-_.~"
"""Unreserved besides letters and digits: "Do not URI-encode any of the unreserved characters that RFC 3986 defines"."""


def path(raw: str) -> str:
    """Return the canonical URI of `raw`, the path as received in the request line."""
    kept: list[str] = []
    for segment in raw.split("/"):
        if segment == "..":
            if kept:
                kept.pop()
        elif segment not in {"", "."}:
            kept.append(segment)
    if not kept:
        return "/"
    slash = "/" if raw.endswith("/") else ""
    # Encode the percent sign itself: this is the second encoding.
    return "/" + quote("/".join(kept), safe=_UNRESERVED + "/", errors="surrogateescape") + slash


def query_pairs(raw: str) -> list[tuple[str, str]]:
    """Return name and value of each parameter, encoded canonically, in the order received.

    "Create the canonical query string by URI-encoding each parameter name and value." The client's own encoding may
    differ (`%7e` for `~`), so the text is decoded first. A `+` is a plus, not a space.
    """
    pairs = []
    for part in raw.split("&"):
        name, _, value = part.partition("=")
        if part:
            pairs.append((_encoded(name), _encoded(value)))
    return pairs


def decoded(value: str) -> str:
    """Return the text of one canonically encoded value; bytes that are not UTF-8 become surrogates."""
    return unquote_to_bytes(value).decode("utf-8", "surrogateescape")


def query(pairs: Iterable[tuple[str, str]]) -> str:
    """Return the canonical query string: sorted by encoded name, then by encoded value."""
    return "&".join(f"{name}={value}" for name, value in sorted(pairs))


def header_value(value: str) -> str:
    """Return a header's value without spaces around it, and with one space for each run of spaces and tabs inside."""
    # "For the values, trim any leading or trailing spaces, convert sequential spaces to a single space."
    return _BLANKS.sub(" ", value).strip(" ")


def _encoded(text: str) -> str:
    return quote(unquote_to_bytes(text.encode("utf-8", "surrogateescape")), safe=_UNRESERVED)
