"""Rows of domain keys and of wrapped material, without a token."""

from __future__ import annotations

import secrets

from kmsd.domain.domain_key import DomainKey, DomainKeyState
from kmsd.domain.key_spec import KeySpec, KeyUsage
from kmsd.domain.material import Algorithm, Material, MaterialIdentity, MaterialStatus, TokenName, WrappedMaterial
from kmsd.ports import Store
from tests.support.domain_keys import CREATED as NOW
from tests.support.domain_keys import KEY_ID


async def a_domain_key(store: Store, state: DomainKeyState = DomainKeyState.CURRENT) -> DomainKey:
    """A domain key of the main token, in the store."""
    made = DomainKey(secrets.token_bytes(16), TokenName.MAIN, state, secrets.token_bytes(32), NOW, NOW)
    async with store.write() as transaction:
        await transaction.insert_domain_key(made)
    return made


def wrapped(domain_key: DomainKey, key_id: str = KEY_ID) -> Material:
    """Material of a symmetric key, as a token would have wrapped it."""
    kind = KeySpec.SYMMETRIC_DEFAULT, KeyUsage.ENCRYPT_DECRYPT
    identity = MaterialIdentity(key_id, secrets.token_bytes(16), *kind, Algorithm.XAES_256_GCM, is_imported=False)
    form = WrappedMaterial(
        identity, domain_key.domain_key_id, domain_key.binding_key, 0x2109, secrets.token_bytes(40), bytes(16)
    )
    return Material(identity.material_id, identity.algorithm, MaterialStatus.READY, NOW, wrapped=form)
