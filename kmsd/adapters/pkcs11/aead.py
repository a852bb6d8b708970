"""Encryption and decryption by each algorithm, on one session: the data path."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kmsd.adapters.pkcs11.xaes import PREFIX_LENGTH
from kmsd.domain.material import TAG_LENGTH, Algorithm
from kmsd.ports import NotAuthentic

if TYPE_CHECKING:
    from kmsd.adapters.pkcs11.cryptoki import RawModule
    from kmsd.adapters.pkcs11.objects import Objects
    from kmsd.adapters.pkcs11.session_pool import Session
    from kmsd.adapters.pkcs11.xaes import DerivedKeys


def well_formed(algorithm: Algorithm, sealed: bytes, aad: bytes) -> None:
    """Raise `NotAuthentic` if the input is too short or has no associated data, on which SoftHSM 2.6.1 crashes."""
    if not aad or len(sealed) < algorithm.nonce_length + TAG_LENGTH:
        raise NotAuthentic("too short to be a sealed text, or without associated data")


class Sealing:
    """Encryption and decryption with the objects of one login."""

    def __init__(self, raw: RawModule, objects: Objects, derived: DerivedKeys) -> None:
        self._raw = raw
        self._objects = objects
        self._derived = derived

    def seal(self, session: Session, object_id: bytes, algorithm: Algorithm, plaintext: bytes, aad: bytes) -> bytes:
        """Encrypt. Return nonce, ciphertext and tag, joined."""
        raw, handle, at = self._raw, session.handle, session.scratch
        if algorithm is not Algorithm.XAES_256_GCM:
            return raw.gcm_encrypt(handle, self._objects.entry(session, object_id).handle, None, plaintext, aad, at)
        derived = self._derived
        key = derived.for_sealing(object_id)
        if key is None:
            entry = self._objects.entry(session, object_id)
            key = derived.derive(object_id, entry, raw.random(handle, PREFIX_LENGTH), to_seal=True)
        try:
            return key.prefix + raw.gcm_encrypt(handle, key.handle, None, plaintext, aad, at)
        finally:
            derived.done(key)

    def open(self, session: Session, object_id: bytes, algorithm: Algorithm, sealed: bytes, aad: bytes) -> bytes:
        """Decrypt input that passed `well_formed`."""
        raw, cut = self._raw, algorithm.nonce_length
        iv, text = sealed[cut - 12 : cut], sealed[cut:]
        if algorithm is not Algorithm.XAES_256_GCM:
            base = self._objects.entry(session, object_id).handle
            return raw.gcm_decrypt(session.handle, base, iv, text, aad, session.scratch)
        prefix, derived = sealed[:PREFIX_LENGTH], self._derived
        known = derived.for_opening(object_id, prefix)
        key = known or derived.derive(
            object_id, self._objects.entry(session, object_id), prefix, to_seal=False, on_trial=True
        )
        try:
            plaintext = raw.gcm_decrypt(session.handle, key.handle, iv, text, aad, session.scratch)
            if known is None:
                derived.keep(key)
        finally:
            derived.done(key)
        if known is None:
            derived.destroy_retired()
        return plaintext
