"""The encryption context: pairs that are authenticated with a ciphertext and never stored in it."""

from __future__ import annotations

from collections.abc import Mapping

EncryptionContext = Mapping[str, str]


def canonical(context: EncryptionContext) -> bytes:
    """The one byte string that stands for `context` (docs/ciphertext.md, "Encryption context").

    Pairs sorted by the UTF-8 bytes of their names; count and each part preceded by its length, four
    bytes, big endian; so that `{"a": "bc"}` and `{"ab": "c"}` differ. Raises UnicodeEncodeError for text
    that is not Unicode (lone surrogates); the wire refuses such text beforehand.
    """
    if not context:
        return b"\x00\x00\x00\x00"
    parts = [len(context).to_bytes(4, "big")]
    for name, value in sorted((name.encode(), value.encode()) for name, value in context.items()):
        parts += (len(name).to_bytes(4, "big"), name, len(value).to_bytes(4, "big"), value)
    return b"".join(parts)
