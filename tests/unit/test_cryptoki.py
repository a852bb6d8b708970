"""The C side of PKCS#11: what calls leave behind."""

from __future__ import annotations

import gc

import pytest
from pkcs11 import Attribute

from kmsd.adapters.pkcs11.cryptoki_types import buffer_of, pack, room
from kmsd.adapters.pkcs11.gcm_scratch import ASKED_12, ASKED_16, IvRequest, Scratch
from kmsd.adapters.pkcs11.return_codes import CkrError


def test_templates_leave_no_garbage() -> None:
    """Nothing that only a collection would find: a worker collects every few hours."""

    def use() -> None:
        for count in range(1, 6):
            pack({Attribute.LABEL: b"x" * count, Attribute.ID: b"y" * 16, Attribute.TOKEN: True})
            room((Attribute.LABEL, Attribute.ID)[:count], 257)
            buffer_of(count)

    use()
    gc.collect()
    gc.disable()
    try:
        use()
        assert gc.collect() == 0
    finally:
        gc.enable()


def test_packed_values() -> None:
    """Each attribute has its bytes; an empty one has none."""
    array, _alive = pack({Attribute.LABEL: b"a\x00b", Attribute.ID: b"", Attribute.MODULUS_BITS: 2048})
    assert [one.ulValueLen for one in array] == [3, 0, 8]
    assert array[1].pValue is None


@pytest.mark.parametrize("asked", [ASKED_12, ASKED_16], ids=["12", "16"])
def test_an_iv_that_did_not_come(asked: IvRequest) -> None:
    """A token that was asked for an IV and appended none has not encrypted: its IV is unknown."""
    at = Scratch(asked)
    for written in (4, 4 + 16, 4 + 16 + asked.length - 1, 4 + 16 + asked.length + 1):
        at.out_length.value = written
        assert written != 4 + at.tag_length
        with pytest.raises(CkrError, match=f"wrote {written} bytes for a plaintext of 4"):
            at.with_appended_iv(4)
