"""One text for each value, wherever something signed or sealed is written in base64."""

from __future__ import annotations

import base64

import pytest

from kmsd.domain import canonical_base64


@pytest.mark.parametrize("length", range(70, 73))
@pytest.mark.parametrize("altchars", [b"+/", b"-_"])
def test_no_flipped_bit_reads_the_same(length: int, altchars: bytes) -> None:
    """Signatures have 70 to 72 bytes: with two letters of padding, with one, and with none."""
    value = bytes(range(180, 180 + length))
    text = base64.b64encode(value, altchars)
    assert canonical_base64.decode(text, altchars=altchars) == value
    for at in range(len(text)):
        for bit in range(8):
            edited = bytearray(text)
            edited[at] ^= 1 << bit
            try:
                assert canonical_base64.decode(bytes(edited), altchars=altchars) != value
            except ValueError:
                continue


@pytest.mark.parametrize("text", ["QQ", "QQ=", "QR==", "QQ==\n", " QQ==", "QQ==QQ==", "Q Q==", "QQ\u00e9=", "-_=="])
def test_another_text_is_refused(text: str) -> None:
    """Missing padding, unused bits, blanks, what follows the padding, another alphabet."""
    with pytest.raises(ValueError):
        canonical_base64.decode(text)
