"""Encryption and decryption by each algorithm, on one session: the data path."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kmsd.adapters.pkcs11.gcm_scratch import GIVEN_12, GIVEN_16
from kmsd.adapters.pkcs11.key_handles import id_of
from kmsd.adapters.pkcs11.xaes import PREFIX_LENGTH
from kmsd.domain.material import TAG_LENGTH, Algorithm
from kmsd.ports import NotAuthentic

if TYPE_CHECKING:
    from kmsd.adapters.pkcs11.cryptoki import RawModule
    from kmsd.adapters.pkcs11.gcm_scratch import IvRequest
    from kmsd.adapters.pkcs11.key_handles import KeyHandles
    from kmsd.adapters.pkcs11.session_pool import Session
    from kmsd.adapters.pkcs11.xaes import DerivedKeys
    from kmsd.domain.material import KeyReference


def well_formed(algorithm: Algorithm, sealed: bytes, aad: bytes) -> None:
    """Raise `NotAuthentic` if the input is too short or has no associated data, on which SoftHSM 2.6.1 crashes."""
    if not aad or len(sealed) < algorithm.nonce_length + TAG_LENGTH:
        raise NotAuthentic("too short to be a sealed text, or without associated data")


class Sealing:
    """Encryption and decryption with the keys of one login."""

    def __init__(self, raw: RawModule, keys: KeyHandles, derived: DerivedKeys) -> None:
        self._raw = raw
        self._keys = keys
        self._derived = derived
        self.requests: dict[Algorithm, IvRequest] = {
            Algorithm.XAES_256_GCM: GIVEN_12,
            Algorithm.AES_256_GCM: GIVEN_12,
            Algorithm.AES_256_GCM_IV16: GIVEN_16,
        }
        """Algorithms of the token for encryption. The self-tests at start (`aead_self_tests`) find them; a later login
        takes them over."""

    def seal(self, session: Session, key: KeyReference, algorithm: Algorithm, plaintext: bytes, aad: bytes) -> bytes:
        """Encrypt. Return nonce, ciphertext and tag, joined."""
        raw, handle, at = self._raw, session.handle, session.scratch
        if (request := self.requests[algorithm]) is not GIVEN_12:
            at = session.scratches[request]
        if algorithm is not Algorithm.XAES_256_GCM:
            with self._keys.held(session, key) as entry:
                return raw.gcm_encrypt(handle, entry.handle, None, plaintext, aad, at)
        derived, key_id = self._derived, key if isinstance(key, bytes) else key.material_id
        message_key = derived.for_sealing(key_id)
        if message_key is None:
            with self._keys.held(session, key) as entry:
                message_key = derived.derive(key_id, entry, raw.random(handle, PREFIX_LENGTH), to_seal=True)
        try:
            return message_key.prefix + raw.gcm_encrypt(handle, message_key.handle, None, plaintext, aad, at)
        finally:
            derived.done(message_key)

    def open_by(self, session: Session, handle: int, algorithm: Algorithm, sealed: bytes, aad: bytes) -> bytes:
        """Decrypt by an algorithm that derives no key, with the key of a handle."""
        at = session.scratch if algorithm is Algorithm.AES_256_GCM else session.scratches[GIVEN_16]
        cut = algorithm.nonce_length
        return self._raw.gcm_decrypt(session.handle, handle, sealed[:cut], sealed[cut:], aad, at)

    def open(self, session: Session, key: KeyReference, algorithm: Algorithm, sealed: bytes, aad: bytes) -> bytes:
        """Decrypt input that passed `well_formed`."""
        if algorithm is not Algorithm.XAES_256_GCM:
            with self._keys.held(session, key) as entry:
                return self.open_by(session, entry.handle, algorithm, sealed, aad)
        raw, cut = self._raw, algorithm.nonce_length
        iv, text = sealed[PREFIX_LENGTH:cut], sealed[cut:]
        prefix, derived, key_id = sealed[:PREFIX_LENGTH], self._derived, id_of(key)
        known = derived.for_opening(key_id, prefix)
        message_key = known
        if message_key is None:
            with self._keys.held(session, key) as entry:
                message_key = derived.derive(key_id, entry, prefix, to_seal=False, on_trial=True)
        try:
            plaintext = raw.gcm_decrypt(session.handle, message_key.handle, iv, text, aad, session.scratch)
            if known is None:
                derived.keep(message_key)
        finally:
            derived.done(message_key)
        if known is None:
            derived.destroy_retired()
        return plaintext
