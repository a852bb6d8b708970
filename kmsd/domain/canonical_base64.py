"""Base64 with exactly one text for each value (RFC 4648, sections 3.5 and 4).

Python's decoder ignores the unused bits of the last letter. In a signed or sealed value, a different text for the same
bytes is a modification and must be detected.
"""

from __future__ import annotations

import base64


def decode(text: str | bytes, *, altchars: bytes = b"+/") -> bytes:
    """Decode `text`. Raises ValueError unless it is exactly an encoder's output, including padding."""
    given = text.encode() if isinstance(text, str) else text
    value = base64.b64decode(given, altchars=altchars, validate=True)
    if base64.b64encode(value, altchars) != given:
        raise ValueError("this is not canonical base64")
    return value
