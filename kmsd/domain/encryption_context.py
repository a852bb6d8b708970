"""Encryption context: pairs that are authenticated with a ciphertext and never stored in it."""

from __future__ import annotations

from collections.abc import Mapping

EncryptionContext = Mapping[str, str]


def canonical(context: EncryptionContext) -> bytes:
    """Return the canonical bytes of `context` (docs/ciphertext.md, "Encryption context").

    The pairs are sorted by the UTF-8 bytes of their names. The number of pairs comes first, and the length of each part
    before it: four bytes, big endian. So `{"a": "bc"}` and `{"ab": "c"}` differ. Raises UnicodeEncodeError for lone
    surrogates, which the request parser refuses beforehand.
    """
    if not context:
        return b"\x00\x00\x00\x00"
    parts = [len(context).to_bytes(4, "big")]
    for name, value in sorted((name.encode(), value.encode()) for name, value in context.items()):
        parts += (len(name).to_bytes(4, "big"), name, len(value).to_bytes(4, "big"), value)
    return b"".join(parts)
