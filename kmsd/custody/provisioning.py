"""Creation of the daemon's service keys, of users, roles and access keys (`kmsd init`, `kmsd user create`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from types import MappingProxyType

import msgspec

from kmsd.custody import credentials, token_objects
from kmsd.custody.service_sealer import PURPOSE as SEALING
from kmsd.custody.service_sealer import ServiceSealer
from kmsd.custody.session_tokens import ID_ALPHABET, SECRET_ALPHABET, random_text
from kmsd.domain.arn import ArnScope
from kmsd.domain.identity import AccessKey, AccessKeyStatus, Role, User
from kmsd.domain.key_spec import KeySpec, KeyUsage
from kmsd.domain.material import TokenName
from kmsd.ports import AUDIT, ServiceKey, Store, Token

SENTINEL = "sentinel"
ADMINISTRATOR_POLICY = '{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}'


class NewAccessKey(msgspec.Struct, frozen=True):
    """An access key with its secret, which is shown once and stored only sealed."""

    access_key_id: str
    secret: str
    user: User


def sentinel_purpose(name: TokenName) -> str:
    """Return the purpose of a token's sentinel among the service keys."""
    return SENTINEL if name == TokenName.MAIN else f"{SENTINEL}:{name}"


async def create_sentinel(store: Store, token: Token, name: TokenName, now: datetime) -> bytes:
    """Create the sentinel of a further token. Return its object id. Raises as `create_service_key`."""
    return await create_service_key(store, token, sentinel_purpose(name), now, name)


async def create_service_key(
    store: Store, token: Token, purpose: str, now: datetime, name: TokenName = TokenName.MAIN
) -> bytes:
    """Return the object id of the service key for `purpose`; create the key if the store names none."""
    known = (await (await store.read()).service_keys()).get(purpose)
    if known is not None:
        return known.object_id
    object_id = await token_objects.record_intent(store, f"service:{purpose}", now, token=name)
    if purpose == AUDIT:
        algorithm = None
        await token.generate_key_pair(object_id, KeySpec.ECC_NIST_P256, KeyUsage.SIGN_VERIFY)
    else:
        algorithm = token_objects.algorithm_for(token)
        await token.generate_key(object_id, algorithm)
    async with store.write() as transaction:
        await token_objects.mark_ready(transaction, object_id)
        await transaction.insert_service_key(ServiceKey(purpose, object_id, algorithm))
    return object_id


async def create_service_keys(store: Store, token: Token, now: datetime, further: Sequence[str] = ()) -> None:
    """Create the sentinel, the sealing key, the audit key and `further` service keys, as far as they are missing."""
    for purpose in (SENTINEL, SEALING, AUDIT, *further):
        await create_service_key(store, token, purpose, now)


def new_user(
    arns: ArnScope,
    account: str,
    name: str,
    policies: Mapping[str, str],
    now: datetime,
    *,
    tags: Mapping[str, str] = MappingProxyType({}),
) -> User:
    """Return a user that is not in the store yet."""
    return User(
        account=account,
        name=name,
        user_id="AIDA" + random_text(ID_ALPHABET, 17),
        arn=arns.user(account, name),
        created_at=now,
        policies=policies,
        tags=tags,
    )


def new_role(
    arns: ArnScope,
    account: str,
    name: str,
    *,
    trust_policy: str,
    policies: Mapping[str, str],
    seconds: int,
    now: datetime,
    tags: Mapping[str, str] = MappingProxyType({}),
) -> Role:
    """Return a role that is not in the store yet."""
    return Role(
        account=account,
        name=name,
        role_id="AROA" + random_text(ID_ALPHABET, 17),
        arn=arns.role(account, name),
        trust_policy=trust_policy,
        max_session_seconds=seconds,
        created_at=now,
        policies=policies,
        tags=tags,
    )


async def create_role(store: Store, role: Role, now: datetime) -> None:
    """Store a role, and its account if it is new. Raises `StoreConflict` if the name is taken."""
    async with store.write() as transaction:
        await transaction.insert_account(role.account, now)
        await transaction.insert_role(role)


async def create_user(store: Store, user: User, now: datetime) -> None:
    """Store a user, and its account if it is new. Raises `StoreConflict` if the name is taken."""
    async with store.write() as transaction:
        await transaction.insert_account(user.account, now)
        await transaction.insert_user(user)


async def create_access_key(store: Store, token: Token, user: User, now: datetime) -> NewAccessKey:
    """Create an access key of `user`. The secret leaves the process only in the return value."""
    access_key_id = "AKIA" + random_text(ID_ALPHABET, 16)
    secret = random_text(SECRET_ALPHABET, 40)
    sealer = await ServiceSealer.of(await store.read(), token)
    sealed = await credentials.seal_secret(sealer, access_key_id, secret)
    async with store.write() as transaction:
        await transaction.insert_access_key(AccessKey(access_key_id, user, sealed, AccessKeyStatus.ACTIVE, now))
    return NewAccessKey(access_key_id, secret, user)
