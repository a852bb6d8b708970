"""Service keys for several HSMs: wrapped under a domain key, so that every HSM with the domain key has them.

An object never becomes wrapped material, so each key gets a successor. What the daemon keeps sealed is sealed again:
the secrets of access keys, and the key that authenticates session tokens; `kmsd.database.reseal_logs` does the same for
log events. What clients have (session tokens, grant tokens, markers, import tokens) stays under the earlier key, which
only its own HSM can use.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from datetime import datetime

from kmsd.custody import credentials, token_objects
from kmsd.custody.service_sealer import PURPOSE as SEALING
from kmsd.custody.service_sealer import ServiceSealer, is_of_wrapped, wrapped_purpose
from kmsd.custody.session_sealer import reseal as reseal_session_mac
from kmsd.domain.domain_key import DomainKey
from kmsd.domain.identity import AccessKey
from kmsd.domain.material import service_identity
from kmsd.ports import Reader, ServiceKey, Store, Token, Transaction


async def share(store: Store, token: Token, domain_key: DomainKey, now: datetime, further: Sequence[str]) -> int:
    """Make wrapped successors of the sealing key and `further` service keys, as far as they are missing.

    Then seal again what earlier ones have sealed. Return the number of texts that were sealed again. All of it is one
    transaction. Raises the store's and the token's errors, `StoreConflict` if another process does the same.
    """
    known = await (await store.read()).service_keys()
    missing = [purpose for purpose in (SEALING, *further) if wrapped_purpose(purpose) not in known]
    made = [await _made(token, wrapped_purpose(purpose), domain_key) for purpose in missing]
    async with store.write() as transaction:
        for service_key in made:
            owner = f"service:{service_key.purpose}"
            await token_objects.insert_wrapped(transaction, service_key.object_id, owner, now)
            await transaction.insert_service_key(service_key)
        return await _reseal(transaction, token)


async def not_shared(reader: Reader, further: Sequence[str]) -> list[str]:
    """Return what only one HSM can open: service keys without wrapped successor, access keys, the session key."""
    known = await reader.service_keys()
    lacking = [f"the {purpose} key" for purpose in (SEALING, *further) if wrapped_purpose(purpose) not in known]
    lacking += [f"the access key {one.access_key_id}" for one in await _access_keys(reader) if _is_old(one)]
    session_mac = (await reader.session_mac()).sealed
    return lacking if session_mac is None or is_of_wrapped(session_mac) else [*lacking, "the key of session tokens"]


async def _made(token: Token, purpose: str, domain_key: DomainKey) -> ServiceKey:
    material_id, algorithm = secrets.token_bytes(16), token_objects.algorithm_for(token)
    wrapped = await token.custody.generate(service_identity(purpose, material_id, algorithm), domain_key)
    return ServiceKey(purpose, material_id, algorithm, wrapped)


async def _reseal(transaction: Transaction, token: Token) -> int:
    sealer, count = await ServiceSealer.of(transaction, token), 0
    for access_key in await _access_keys(transaction):
        if _is_old(access_key):
            sealed = await credentials.resealed(sealer, access_key)
            await transaction.replace_sealed_secret(access_key, sealed)
            count += 1
    return count + await reseal_session_mac(transaction, sealer)


def _is_old(access_key: AccessKey) -> bool:
    return not is_of_wrapped(access_key.sealed_secret)


async def _access_keys(reader: Reader) -> list[AccessKey]:
    return [key for user in await reader.users() for key in await reader.access_keys_of(user.account, user.name)]
