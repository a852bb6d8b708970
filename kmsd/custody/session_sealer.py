"""Session tokens: sealed under a service key, inside a MAC that is verified without the token.

Anyone may send a session token, and the sender is known only after it is decrypted. Therefore a process first verifies
a MAC with its own copy of a key, so that forged session tokens cost the HSM token nothing. The MAC key is random,
created with the first session, stored sealed under the service key, and unsealed once by each process. It decrypts
nothing: a stolen MAC key only lets others waste the token's time, as they could without a MAC.

Format: base64 of version 2, HMAC-SHA-256 over access key id and sealed text, sealed text. Version 1 was the sealed text
alone. It is accepted until the sessions issued before the upgrade have expired.
"""

from __future__ import annotations

import base64
import hmac
import secrets
from datetime import datetime

import msgspec

from kmsd.custody.service_sealer import ServiceSealer, is_of_wrapped
from kmsd.domain import canonical_base64
from kmsd.errors import UnrecognizedClientException
from kmsd.ports import NotAuthentic, Reader, SessionMac, Store, StoreConflict, Token, Transaction

INVALID = "The security token included in the request is invalid."
PURPOSE = "session-token"
_KEY_PURPOSE = "session-mac"
_KEY_BYTES = 32
_MAC_BYTES = 32
_VERSION = b"\x02"


class SessionSealer(msgspec.Struct, frozen=True):
    """Seals and verifies session tokens."""

    sealer: ServiceSealer
    mac_key: bytes

    @classmethod
    async def of(cls, reader: Reader, token: Token, stored: SessionMac) -> SessionSealer | None:
        """Return the sealer for the stored key; None before the first session. Raises the token's errors."""
        if stored.sealed is None:
            return None
        sealer = await ServiceSealer.of(reader, token)
        return cls(sealer, await sealer.decrypt(_KEY_PURPOSE, "", stored.sealed))

    @classmethod
    async def made(cls, store: Store, token: Token) -> SessionSealer:
        """Return the sealer, creating its key if there is none. Raises the store's and the token's errors."""
        reader = await store.read()
        found = await cls.of(reader, token, await reader.session_mac())
        if found is not None:
            return found
        sealer = await ServiceSealer.of(reader, token)
        mac_key = secrets.token_bytes(_KEY_BYTES)
        try:
            sealed = await sealer.encrypt(_KEY_PURPOSE, "", mac_key)
            async with store.write() as transaction:
                await transaction.set_session_mac(sealed)
        except StoreConflict:
            # Another process created it in the meantime.
            reader = await store.read()
            found = await cls.of(reader, token, await reader.session_mac())
            if found is None:
                raise
            return found
        return cls(sealer, mac_key)

    async def seal(self, access_key_id: str, content: bytes) -> str:
        """Return the session token for the content. Raises the token's errors."""
        sealed = await self.sealer.encrypt(PURPOSE, access_key_id, content)
        return base64.b64encode(_VERSION + self._mac(access_key_id, sealed) + sealed).decode()

    def verified(self, access_key_id: str, given: bytes) -> bytes:
        """Return the sealed text in a session token of version 2. Raises `NotAuthentic`. Does not use the HSM token."""
        mac, sealed = given[1 : 1 + _MAC_BYTES], given[1 + _MAC_BYTES :]
        if not hmac.compare_digest(mac, self._mac(access_key_id, sealed)):
            raise NotAuthentic("not a session token of this daemon")
        return sealed

    def _mac(self, access_key_id: str, sealed: bytes) -> bytes:
        name = access_key_id.encode()
        return hmac.digest(self.mac_key, len(name).to_bytes(2, "big") + name + sealed, "sha256")


async def reseal(transaction: Transaction, sealer: ServiceSealer) -> int:
    """Seal the MAC key again, if an earlier service key has sealed it. Return 1 if so, else 0."""
    stored = (await transaction.session_mac()).sealed
    if stored is None or is_of_wrapped(stored):
        return 0
    await transaction.set_session_mac(await sealer.reseal(_KEY_PURPOSE, "", stored), stored)
    return 1


class SessionOpener:
    """Verifies and decrypts the session tokens that clients send to one process."""

    def __init__(self, token: Token) -> None:
        self._token = token
        self._kept: tuple[SessionMac, SessionSealer | None] | None = None
        """The sealer for the row in the store. Replaced when the row changes."""

    async def open(self, reader: Reader, access_key_id: str, text: str, now: datetime) -> bytes:
        """Return the content of a session token.

        Raises UnrecognizedClientException if this daemon did not issue it for this access key id. This does not use
        the HSM token, unless version 1 is still accepted and the text has its form.
        """
        try:
            return await self._open(reader, access_key_id, canonical_base64.decode(text), now)
        except (ValueError, NotAuthentic) as exc:
            raise UnrecognizedClientException(INVALID, detail="not a session token of this daemon") from exc

    async def _open(self, reader: Reader, access_key_id: str, given: bytes, now: datetime) -> bytes:
        stored = await reader.session_mac()
        if given[:1] != _VERSION:
            if stored.older_until is None or now >= stored.older_until:
                raise NotAuthentic("a session token without MAC")
            return await (await ServiceSealer.of(reader, self._token)).decrypt(PURPOSE, access_key_id, given)
        if self._kept is None or self._kept[0] != stored:
            self._kept = stored, await SessionSealer.of(reader, self._token, stored)
        sealer = self._kept[1]
        if sealer is None:
            raise NotAuthentic("no session was issued yet")
        return await sealer.sealer.decrypt(PURPOSE, access_key_id, sealer.verified(access_key_id, given))
