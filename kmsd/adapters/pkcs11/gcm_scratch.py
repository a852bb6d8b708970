"""Parameter and output buffers of CKM_AES_GCM, and the ways to ask a token for an initialisation vector (IV).

PKCS#11 v2.40 leaves open who makes the IV. A token may use the caller's, write its own over it in the parameter, or
append its own to the ciphertext. Thales Luna in FIPS mode appends, and takes no IV from the caller.
"""

from __future__ import annotations

import ctypes
from ctypes import byref, c_ulong, sizeof

import msgspec
from pkcs11 import Mechanism

from kmsd.adapters.pkcs11.cryptoki_types import CkGcmParams, CkMechanism, buffer_of
from kmsd.adapters.pkcs11.return_codes import Ckr, CkrError
from kmsd.domain.material import TAG_LENGTH

IV_BATCH = 64
"""Initialisation vectors drawn from the token at once."""
_GCM_MECHANISM = int(Mechanism.AES_GCM)
_NEVER = -1


class IvRequest(msgspec.Struct, frozen=True, eq=False):
    """The fields of CK_GCM_PARAMS that concern the IV of an encryption."""

    length: int
    """Bytes of the IV that the token uses, as `aead_self_tests` has proven."""
    is_given: bool
    """True: pIv has a random IV of this length. False: pIv is NULL and ulIvLen 0; the token must append its own."""
    bits: int
    """ulIvBits."""


GIVEN_12 = IvRequest(length=12, is_given=True, bits=96)
GIVEN_16 = IvRequest(length=16, is_given=True, bits=128)
GIVEN = {request.length: request for request in (GIVEN_12, GIVEN_16)}
"""By length: the buffers of these also serve decryption."""
# "IVLen 0, IvBits 0 or 128: generate 128 bit IV; IVLen 0, IvBits 96: generate 96 bit IV" (Luna 7, CKM_AES_GCM, firmware
# 7.9.3). Before 7.9.3 the IV has 128 bits, and Thales's samples leave ulIvBits 0.
ASKED_12 = IvRequest(length=12, is_given=False, bits=96)
ASKED_16 = IvRequest(length=16, is_given=False, bits=0)


class Scratch:
    """Parameter and output buffers of one session, created once: building them costs more than the call.

    The IV lies just before the text, so that IV and ciphertext are copied out in one piece. A decryption needs the
    buffers of `GIVEN_…`.
    """

    __slots__ = (
        "capacity",
        "gcm",
        "is_given",
        "iv_length",
        "ivs",
        "mechanism",
        "mechanism_ref",
        "out_length",
        "out_length_ref",
        "tag_length",
        "text_address",
        "view",
    )

    def __init__(self, request: IvRequest = GIVEN_12, capacity: int = 8192) -> None:
        self.iv_length = request.length
        self.is_given = request.is_given
        self.tag_length = TAG_LENGTH if request.is_given else _NEVER
        """Bytes that follow the ciphertext if the IV is in its place, before it."""
        self.ivs: list[bytes] = []
        """Unused random IVs from the token."""
        self.gcm = CkGcmParams(None, request.length if request.is_given else 0, request.bits, None, 0, 8 * TAG_LENGTH)
        self.mechanism = CkMechanism(_GCM_MECHANISM, ctypes.addressof(self.gcm), sizeof(self.gcm))
        self.mechanism_ref = byref(self.mechanism)
        self.out_length = c_ulong(0)
        self.out_length_ref = byref(self.out_length)
        self.reserve(capacity)

    def reserve(self, capacity: int) -> None:
        """Replace the buffer by one for a text of `capacity` bytes."""
        self.capacity = capacity
        buffer = buffer_of(self.iv_length + capacity)
        self.view = memoryview(buffer).cast("B")
        """IV and text; keeps the buffer alive."""
        address = ctypes.addressof(buffer)
        self.text_address = address + self.iv_length
        self.gcm.pIv = address if self.is_given else None

    def with_appended_iv(self, length: int) -> bytes:
        """Return IV, ciphertext and tag, joined, of a plaintext of `length` bytes to which the token appended the IV.

        Raises `CkrError` if the output has another length: what it consists of is then unknown.
        """
        written, end = self.out_length.value, self.iv_length + length + TAG_LENGTH
        if written != end:
            raise CkrError(Ckr.GENERAL_ERROR, f"C_Encrypt wrote {written} bytes for a plaintext of {length}")
        # The text begins `iv_length` bytes into the buffer.
        return bytes(self.view[end : end + self.iv_length]) + bytes(self.view[self.iv_length : end])


class Scratches(dict[IvRequest, Scratch]):
    """The buffers of one session, each created when it is first needed."""

    def __missing__(self, request: IvRequest) -> Scratch:
        made = self[request] = Scratch(request)
        return made
