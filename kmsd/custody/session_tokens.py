"""Temporary credentials: stateless, sealed by the daemon's key, checked against the store on every request.

A session token contains its own secret, so every process can verify it, also after a restart. Role, policies and the
user's access key may change and are read from the store each time.
"""

from __future__ import annotations

import secrets
import string
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import msgspec

from kmsd.authz.wildcard import fold
from kmsd.custody.session_sealer import INVALID, SessionSealer
from kmsd.domain.arn import ArnScope
from kmsd.domain.identity import AccessKeyStatus, Role, User
from kmsd.domain.principal import Caller, PrincipalType
from kmsd.domain.temporary_credentials import SessionTokenPayload
from kmsd.errors import ExpiredTokenException, UnrecognizedClientException
from kmsd.ports import Reader

ID_ALPHABET = string.ascii_uppercase + "234567"
SECRET_ALPHABET = string.ascii_letters + string.digits + "+/"
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(SessionTokenPayload).decode


class SessionAttributes(msgspec.Struct, frozen=True):
    """Attributes that a session of a role keeps."""

    provider: str = ""
    """ARN of the issuer of the web token that was presented for it."""
    tags: Mapping[str, str] = {}
    transitive_tag_keys: tuple[str, ...] = ()
    source_identity: str = ""


class TemporaryCredentials(msgspec.Struct, frozen=True):
    """The credentials that STS returns. The secret leaves the process only in the response."""

    access_key_id: str
    secret: str
    session_token: str
    expires_at: datetime


def random_text(alphabet: str, length: int) -> str:
    """Return a random string from an alphabet, by a secure generator."""
    return "".join(secrets.choice(alphabet) for _ in range(length))


async def for_role(
    sealer: SessionSealer,
    role: Role,
    session_name: str,
    *,
    now: datetime,
    seconds: int,
    policies: tuple[str, ...] | None,
    attributes: SessionAttributes,
) -> TemporaryCredentials:
    """Issue credentials for a session of a role."""
    session = SessionTokenPayload(
        secret=random_text(SECRET_ALPHABET, 40),
        account=role.account,
        name=role.name,
        entity_id=role.role_id,
        issued_at=int(now.timestamp()),
        expires_at=int(now.timestamp()) + seconds,
        session_name=session_name,
        policies=policies,
        provider=attributes.provider,
        tags=attributes.tags,
        transitive_tag_keys=attributes.transitive_tag_keys,
        source_identity=attributes.source_identity,
    )
    return await _issue(sealer, session)


async def for_user(
    sealer: SessionSealer, user: User, access_key_id: str, now: datetime, seconds: int
) -> TemporaryCredentials:
    """Issue credentials for a session of a user (GetSessionToken). It ends with the access key that requested it."""
    session = SessionTokenPayload(
        secret=random_text(SECRET_ALPHABET, 40),
        account=user.account,
        name=user.name,
        entity_id=user.user_id,
        issued_at=int(now.timestamp()),
        expires_at=int(now.timestamp()) + seconds,
        access_key_id=access_key_id,
    )
    return await _issue(sealer, session)


async def _issue(sealer: SessionSealer, session: SessionTokenPayload) -> TemporaryCredentials:
    access_key_id = "ASIA" + random_text(ID_ALPHABET, 16)
    token = await sealer.seal(access_key_id, _encode(session))
    expires_at = datetime.fromtimestamp(session.expires_at, UTC)
    return TemporaryCredentials(access_key_id, session.secret, token, expires_at)


def decode(content: bytes) -> SessionTokenPayload:
    """Decode the content of a decrypted session token."""
    return _decode(content)


def check_time(session: SessionTokenPayload, now: datetime) -> None:
    """Check that the session has not expired. Raises ExpiredTokenException."""
    if now >= datetime.fromtimestamp(session.expires_at, UTC):
        raise ExpiredTokenException("The security token included in the request is expired")


async def caller_of(session: SessionTokenPayload, access_key_id: str, reader: Reader, arns: ArnScope) -> Caller:
    """Return the caller of a session with its current policies.

    Raises UnrecognizedClientException if the role or user is deleted, or the user's access key is disabled.
    """
    if session.session_name:
        return await _role_session(session, access_key_id, reader, arns)
    long_term = await reader.access_key(session.access_key_id)
    user = None if long_term is None else long_term.user
    is_active = long_term is not None and long_term.status is AccessKeyStatus.ACTIVE
    if user is None or not is_active or user.user_id != session.entity_id:
        raise UnrecognizedClientException(INVALID, detail="the access key behind the session is gone or disabled")
    return Caller(
        principal_type=PrincipalType.USER,
        arn=user.arn,
        account=user.account,
        principal_id=user.user_id,
        access_key_id=access_key_id,
        user_name=user.name,
        issued_at=_issued_at(session),
        tags=user.tags,
        identity_policies=tuple(user.policies.values()),
    )


async def _role_session(session: SessionTokenPayload, access_key_id: str, reader: Reader, arns: ArnScope) -> Caller:
    role = await reader.role(session.account, session.name)
    if role is None or role.role_id != session.entity_id:
        raise UnrecognizedClientException(INVALID, detail="the role behind the session is gone")
    return Caller(
        principal_type=PrincipalType.ASSUMED_ROLE,
        arn=arns.assumed_role(role.account, role.name, session.session_name),
        account=role.account,
        principal_id=f"{role.role_id}:{session.session_name}",
        access_key_id=access_key_id,
        role_arn=role.arn,
        issued_at=_issued_at(session),
        tags=overlaid(role.tags, session.tags) if session.tags else role.tags,
        transitive_tag_keys=session.transitive_tag_keys,
        source_identity=session.source_identity,
        identity_policies=tuple(role.policies.values()),
        session_policies=session.policies,
        identity_provider=session.provider,
    )


def overlaid(tags: Mapping[str, str], over: Mapping[str, str]) -> dict[str, str]:
    """Return tags with others over them. Names are the same without regard to case."""
    names = {fold(name) for name in over}
    return {**{name: value for name, value in tags.items() if fold(name) not in names}, **over}


def _issued_at(session: SessionTokenPayload) -> datetime:
    return datetime.fromtimestamp(0, UTC) + timedelta(seconds=session.issued_at)
