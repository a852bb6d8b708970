"""Look up the caller and the signing key of an access key.

SigV4 needs the secret itself. Secrets are sealed by a service key in the token. A process caches only the signing keys
derived from them, each for one day, region and service. A signing key is evicted when it is eight days older than the
newest of its access key, or when the sealed secret changes. At 10,000 cached keys the oldest is evicted. The status of
an access key is read from the store on every request.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import msgspec

from kmsd.custody import session_tokens
from kmsd.custody.service_sealer import ServiceSealer
from kmsd.custody.session_sealer import INVALID, SessionOpener
from kmsd.domain.arn import ArnScope
from kmsd.domain.identity import AccessKey, AccessKeyStatus
from kmsd.domain.principal import Caller
from kmsd.domain.temporary_credentials import SessionTokenPayload
from kmsd.errors import UnrecognizedClientException
from kmsd.ports import Reader, Token

ACCESS_KEY_PURPOSE = "access-key"
MAX_CACHED = 10_000
DATE_FORMAT = "%Y%m%d"
MAX_PRESIGNED_AGE = timedelta(days=8)
"""Maximum age of a signature. A presigned request is valid for seven days, and clocks may differ."""

Derive = Callable[[str, str, str, str], bytes]
"""`signing_key(secret, date, region, service)` of SigV4."""


class Scope(msgspec.Struct, frozen=True):
    """The credential scope of a signing key."""

    access_key_id: str
    date: str
    region: str
    service: str


async def seal_secret(sealer: ServiceSealer, access_key_id: str, secret: str) -> bytes:
    """Return the sealed form of an access key's secret, for the store."""
    return await sealer.encrypt(ACCESS_KEY_PURPOSE, access_key_id, secret.encode())


async def resealed(sealer: ServiceSealer, access_key: AccessKey) -> bytes:
    """Return the secret of an access key, sealed again. Raises the token's errors."""
    return await sealer.reseal(ACCESS_KEY_PURPOSE, access_key.access_key_id, access_key.sealed_secret)


class CredentialStore:
    """Credentials with the caches of one process. `derive` comes from `kmsd.wire`; custody does not know SigV4."""

    def __init__(self, token: Token, arns: ArnScope, derive: Derive) -> None:
        self._token = token
        self._arns = arns
        self._derive = derive
        self._derived: dict[Scope, tuple[bytes, bytes]] = {}
        self._opener = SessionOpener(token)
        self._sessions: dict[tuple[str, str], SessionTokenPayload] = {}

    async def identify(
        self, reader: Reader, scope: Scope, session_token: str | None, now: datetime
    ) -> tuple[Caller, bytes]:
        """Return the caller and the signing key that verifies the request.

        Raises UnrecognizedClientException for an unknown or disabled access key, for a session token of another daemon,
        and if its role or user is deleted. Raises ExpiredTokenException for an expired session token.
        """
        if session_token is not None:
            return await self._session(reader, scope, session_token, now)
        access_key = await reader.access_key(scope.access_key_id)
        if access_key is None or access_key.status is not AccessKeyStatus.ACTIVE:
            raise UnrecognizedClientException(INVALID)
        known = self._derived.get(scope)
        if known is not None and known[0] == access_key.sealed_secret:
            return access_key.caller, known[1]
        return access_key.caller, await self._derive_key(reader, scope, access_key)

    async def _session(self, reader: Reader, scope: Scope, token: str, now: datetime) -> tuple[Caller, bytes]:
        """Return the caller and the signing key of temporary credentials.

        The content of a session token never changes, so it is cached. The role or user is read on every request.
        """
        known = self._sessions.get((scope.access_key_id, token))
        if known is None:
            known = session_tokens.decode(await self._opener.open(reader, scope.access_key_id, token, now))
            if len(self._sessions) >= MAX_CACHED:
                del self._sessions[next(iter(self._sessions))]
            self._sessions[scope.access_key_id, token] = known
        session_tokens.check_time(known, now)
        caller = await session_tokens.caller_of(known, scope.access_key_id, reader, self._arns)
        key = self._derive(known.secret, scope.date, scope.region, scope.service)
        return caller, key

    async def _derive_key(self, reader: Reader, scope: Scope, access_key: AccessKey) -> bytes:
        sealer = await ServiceSealer.of(reader, self._token)
        secret = await sealer.decrypt(ACCESS_KEY_PURPOSE, scope.access_key_id, access_key.sealed_secret)
        key = self._derive(secret.decode(), scope.date, scope.region, scope.service)
        self._evict_old_days(scope)
        self._derived[scope] = (access_key.sealed_secret, key)
        return key

    def _evict_old_days(self, scope: Scope) -> None:
        """Evict signing keys that no valid request can use any more.

        The current request is not authenticated yet, so it must not evict keys in use. A presigned request may be of
        any of the last seven days.
        """
        same_key = [cached for cached in self._derived if cached.access_key_id == scope.access_key_id]
        newest = max(cached.date for cached in (*same_key, scope))
        oldest = datetime.strptime(newest, DATE_FORMAT).replace(tzinfo=UTC) - MAX_PRESIGNED_AGE
        for cached in [cached for cached in same_key if cached.date < oldest.strftime(DATE_FORMAT)]:
            del self._derived[cached]
        if len(self._derived) >= MAX_CACHED:
            del self._derived[next(iter(self._derived))]
