"""Base64 with one text for each value (RFC 4648, sections 3.5 and 4).

Python's decoder ignores the unused bits of the last letter. Where a text stands for something signed or sealed, another
text for the same bytes is an edit that must show.
"""

from __future__ import annotations

import base64


def decode(text: str | bytes, *, altchars: bytes = b"+/") -> bytes:
    """Decode `text`. Raises ValueError unless it is what an encoder would have written, padding included."""
    given = text.encode() if isinstance(text, str) else text
    value = base64.b64decode(given, altchars=altchars, validate=True)
    if base64.b64encode(value, altchars) != given:
        raise ValueError("this is not canonical base64")
    return value
