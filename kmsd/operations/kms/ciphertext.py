"""Ciphertexts of Decrypt and ReEncrypt: blobs of symmetric keys, and ciphertexts of RSA keys."""

from __future__ import annotations

from typing import Protocol

from kmsd.custody.rsa_encryption import RsaCiphertext
from kmsd.domain.ciphertext_blob import Blob
from kmsd.domain.key_spec import EncryptionAlgorithm
from kmsd.errors import DryRunOperationException
from kmsd.operations.declaration import Call


class _Request(Protocol):
    @property
    def ciphertext_blob(self) -> bytes | None: ...

    @property
    def dry_run_modifiers(self) -> list[str] | None: ...


def ciphertext_of(request: _Request, call: Call, algorithm: str | None) -> Blob | RsaCiphertext:
    """Return the ciphertext of the request's first target.

    Raises DryRunOperationException if the request says to ignore it: admission then was the whole test.
    """
    if request.dry_run_modifiers:
        raise DryRunOperationException("The request would have succeeded, but the DryRun option is set.")
    blob = call.targets[0].blob
    if blob is not None:
        return blob
    if algorithm is None or request.ciphertext_blob is None:
        raise LookupError("this request has no ciphertext")
    return RsaCiphertext(EncryptionAlgorithm(algorithm), request.ciphertext_blob)
