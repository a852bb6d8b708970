"""From an access key to the caller behind it, and to the key that must have signed the request.

SigV4 needs the secret itself. Secrets are sealed by a service key in the token; a process keeps only the
keys derived from them for one day, region and service. The rule for their end: they are dropped when they
are eight days older than the newest of the access key, when the sealed secret changes, or when 10 000 are held, the
oldest first. Whether an access key is active is read from the store on every request.
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
from kmsd.domain.principal import Caller, PrincipalType
from kmsd.domain.temporary_credentials import SessionTokenPayload
from kmsd.errors import UnrecognizedClientException
from kmsd.ports import Reader, Token

ACCESS_KEY_PURPOSE = "access-key"
MAX_CACHED = 10_000
DATE_FORMAT = "%Y%m%d"
MAX_PRESIGNED_AGE = timedelta(days=8)
"""How old a signature may be: a presigned request is good for seven days, and clocks may differ."""

Derive = Callable[[str, str, str, str], bytes]
"""`signing_key(secret, date, region, service)` of SigV4."""


class Scope(msgspec.Struct, frozen=True):
    """What a signing key is derived for."""

    access_key_id: str
    date: str
    region: str
    service: str


async def seal_secret(sealer: ServiceSealer, access_key_id: str, secret: str) -> bytes:
    """An access key's secret as it may lie in the store."""
    return await sealer.encrypt(ACCESS_KEY_PURPOSE, access_key_id, secret.encode())


class CredentialStore:
    """The credentials that a process has met. `derive` is the wire's; this floor knows no SigV4."""

    def __init__(self, token: Token, arns: ArnScope, derive: Derive) -> None:
        self._token = token
        self._arns = arns
        self._derive = derive
        self._derived: dict[Scope, tuple[bytes, bytes]] = {}
        self._callers: dict[str, tuple[AccessKey, Caller]] = {}
        self._opener = SessionOpener(token)
        self._sessions: dict[tuple[str, str], SessionTokenPayload] = {}

    async def identify(
        self, reader: Reader, scope: Scope, session_token: str | None, now: datetime
    ) -> tuple[Caller, bytes]:
        """Return the caller, and the signing key that the request must be verified with.

        Raises UnrecognizedClientException for an access key that is unknown or disabled, or a session token that is
        not of this daemon or whose role or user is gone; ExpiredTokenException.
        """
        if session_token is not None:
            return await self._session(reader, scope, session_token, now)
        access_key = await reader.access_key(scope.access_key_id)
        if access_key is None or access_key.status is not AccessKeyStatus.ACTIVE:
            raise UnrecognizedClientException(INVALID)
        return self._caller(access_key), await self._signing_key(reader, scope, access_key)

    async def _session(self, reader: Reader, scope: Scope, token: str, now: datetime) -> tuple[Caller, bytes]:
        """Of temporary credentials. What a token holds never changes; what it refers to is read each time."""
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

    async def _signing_key(self, reader: Reader, scope: Scope, access_key: AccessKey) -> bytes:
        known = self._derived.get(scope)
        if known is not None and known[0] == access_key.sealed_secret:
            return known[1]
        sealer = await ServiceSealer.of(reader, self._token)
        secret = await sealer.decrypt(ACCESS_KEY_PURPOSE, scope.access_key_id, access_key.sealed_secret)
        key = self._derive(secret.decode(), scope.date, scope.region, scope.service)
        self._evict_old_days(scope)
        self._derived[scope] = (access_key.sealed_secret, key)
        return key

    def _evict_old_days(self, scope: Scope) -> None:
        """Evict what no request can be signed with any more. The request in hand is not authenticated yet.

        So it must not evict the key of a day that others use: a presigned request may be of any of the last seven days.
        """
        mine = [held for held in self._derived if held.access_key_id == scope.access_key_id]
        newest = max(held.date for held in (*mine, scope))
        oldest = datetime.strptime(newest, DATE_FORMAT).replace(tzinfo=UTC) - MAX_PRESIGNED_AGE
        for held in [held for held in mine if held.date < oldest.strftime(DATE_FORMAT)]:
            del self._derived[held]
        if len(self._derived) >= MAX_CACHED:
            del self._derived[next(iter(self._derived))]

    def _caller(self, access_key: AccessKey) -> Caller:
        """Built once for each state of the credential: the store returns the same object until something changes."""
        known = self._callers.get(access_key.access_key_id)
        if known is not None and known[0] is access_key:
            return known[1]
        user = access_key.user
        caller = Caller(
            principal_type=PrincipalType.USER,
            arn=user.arn,
            account=user.account,
            principal_id=user.user_id,
            access_key_id=access_key.access_key_id,
            user_name=user.name,
            tags=user.tags,
            identity_policies=tuple(user.policies.values()),
        )
        if len(self._callers) >= MAX_CACHED:
            del self._callers[next(iter(self._callers))]
        self._callers[access_key.access_key_id] = (access_key, caller)
        return caller
