"""The canonical form of a request's path, query and header values, as Signature Version 4 wants it.

Pure text work. The forms are those of every service but S3: the path is normalised and encoded once
more ("URI-encode each path segment twice", IAM User Guide, "Create a signed AWS API request").
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import quote, unquote_to_bytes

_BLANKS = re.compile("[ \t]+")
_UNRESERVED = "-_.~"
"""Besides letters and digits: "Do not URI-encode any of the unreserved characters that RFC 3986 defines"."""


def path(raw: str) -> str:
    """The canonical URI of `raw`, the path as it stood in the request line."""
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
    # The percent sign itself is encoded here: this is the second encoding.
    return "/" + quote("/".join(kept), safe=_UNRESERVED + "/", errors="surrogateescape") + slash


def query_pairs(raw: str) -> list[tuple[str, str]]:
    """Name and value of each parameter, encoded canonically, in the order received.

    "Create the canonical query string by URI-encoding each parameter name and value." What arrives is
    encoded already, perhaps otherwise (`%7e` for `~`), so it is decoded first. A `+` is a plus, no blank.
    """
    pairs = []
    for part in raw.split("&"):
        name, _, value = part.partition("=")
        if part:
            pairs.append((_encoded(name), _encoded(value)))
    return pairs


def decoded(value: str) -> str:
    """The text behind one canonically encoded value; bytes that are no UTF-8 become surrogates."""
    return unquote_to_bytes(value).decode("utf-8", "surrogateescape")


def query(pairs: Iterable[tuple[str, str]]) -> str:
    """The canonical query string: sorted by encoded name, then by encoded value."""
    return "&".join(f"{name}={value}" for name, value in sorted(pairs))


def header_value(value: str) -> str:
    """A header's value without blanks around it, and with one space for each run of blanks inside."""
    return _BLANKS.sub(" ", value).strip(" ")


def _encoded(text: str) -> str:
    return quote(unquote_to_bytes(text.encode("utf-8", "surrogateescape")), safe=_UNRESERVED)
