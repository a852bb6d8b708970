"""Key material: which a key uses now, generation in the token, and its addition to a key."""

from __future__ import annotations

import secrets
from datetime import datetime
from typing import Protocol

import msgspec

from kmsd.custody import token_objects, wrapped_material
from kmsd.domain.key import Key
from kmsd.domain.key_spec import KeySpec, KeyUsage
from kmsd.domain.material import Algorithm, Material, MaterialIdentity, MaterialStatus, TokenName
from kmsd.errors import KeyUnavailableException, UnsupportedOperationException
from kmsd.ports import Store, Token, Tokens, Transaction


class KeyToBe(Protocol):
    """Id and kind of a key that exists, or is about to."""

    @property
    def key_id(self) -> str:
        """UUID in lower case."""
        ...

    @property
    def spec(self) -> KeySpec:
        """Kind of the material."""
        ...

    @property
    def usage(self) -> KeyUsage:
        """Purpose of the key."""
        ...


def current(key: Key, now: datetime) -> Material:
    """Return the key's current material. Raises KeyUnavailableException if the token does not hold it."""
    material = key.material_at(now)
    if material is None or material.status is not MaterialStatus.READY:
        raise unavailable(key)
    return material


def unavailable(key: Key) -> KeyUnavailableException:
    """Return the error for a key whose material is not in the token."""
    return KeyUnavailableException(f"{key.arn} is unavailable: the token does not hold its key material.")


class Placement(msgspec.Struct, frozen=True):
    """The token that holds the material of a new key, and what it offers for the key."""

    token: TokenName
    algorithms: tuple[str, ...]
    """API names, in AWS's order."""


async def place(tokens: Tokens, spec: KeySpec, usage: KeyUsage) -> Placement:
    """Return the first token that offers a kind of key.

    Raises UnsupportedOperationException with the missing mechanism if none does, and `TokenUnavailable` if a token that
    is preferred cannot be asked: its keys are not silently made elsewhere.
    """
    lacking: list[str] = []
    for name in tokens.for_new(spec):
        algorithms = await _offered(tokens[name], spec, usage, lacking)
        if algorithms:
            return Placement(name, algorithms)
    raise _not_offered(spec, usage, lacking)


async def importable(tokens: Tokens, spec: KeySpec, usage: KeyUsage) -> tuple[str, ...]:
    """Return the algorithms of a key whose material is imported into the main token.

    Raises UnsupportedOperationException if the main token does not offer such keys, or cannot import their material.
    """
    lacking: list[str] = []
    algorithms = await _offered(tokens.main, spec, usage, lacking)
    if not algorithms:
        raise _not_offered(spec, usage, lacking)
    if spec is not KeySpec.SYMMETRIC_DEFAULT and spec not in (await tokens.main.import_capabilities()).specs:
        raise UnsupportedOperationException(f"Origin EXTERNAL is not supported with KeySpec {spec}.")
    return algorithms


def _not_offered(spec: KeySpec, usage: KeyUsage, lacking: list[str]) -> UnsupportedOperationException:
    reasons = "; ".join(dict.fromkeys(lacking))
    return UnsupportedOperationException(f"KeySpec {spec} with KeyUsage {usage} is not supported: {reasons}.")


async def _offered(token: Token, spec: KeySpec, usage: KeyUsage, lacking: list[str]) -> tuple[str, ...]:
    """Return the algorithms that a token offers for a kind of key. Adds to `lacking` what it lacks."""
    if spec is KeySpec.SYMMETRIC_DEFAULT:
        if token.capabilities.algorithms:
            return (spec.value,)
        lacking.append("the token offers neither CKM_AES_ECB_ENCRYPT_DATA with CKM_AES_GCM nor CKM_AES_GCM")
        return ()
    offer = (await token.key_offers())[spec, usage]
    if not offer.algorithms:
        lacking += offer.lacking.values()
    return offer.algorithms


async def generate(
    store: Store, tokens: Tokens, key: KeyToBe, name: TokenName, *, now: datetime, created: list[bytes]
) -> Material:
    """Generate key material in a token. The caller adds it to the key in a transaction (`add`).

    An object is made under an intent and is durable on return. Its id is appended to `created` before it can exist, so
    that the caller can roll it back. Wrapped material leaves nothing in the token, and needs neither.
    """
    token = tokens[name]
    algorithm = token_objects.algorithm_for(token) if key.spec is KeySpec.SYMMETRIC_DEFAULT else None
    domain_key = await wrapped_material.domain_key_for(await store.read(), tokens, name, key.spec, key.usage)
    if domain_key is not None:
        material_id = secrets.token_bytes(16)
        identity = MaterialIdentity(key.key_id, material_id, key.spec, key.usage, algorithm, is_imported=False)
        wrapped = await token.custody.generate(identity, domain_key)
        return Material(
            material_id,
            algorithm,
            MaterialStatus.READY,
            now,
            token=name,
            public_key=wrapped.public_key,
            wrapped=wrapped,
        )
    object_id = await token_objects.record_intent(store, f"key:{key.key_id}", now, token=name)
    created.append(object_id)
    public_key = await _generate_object(token, object_id, key, algorithm)
    return Material(object_id, algorithm, MaterialStatus.READY, now, token=name, public_key=public_key)


async def add(transaction: Transaction, key_id: str, material: Material, *, owner: str = "") -> None:
    """Add new material to a key. Raises `StoreConflict` if its id is in use."""
    if material.wrapped is None:
        await token_objects.mark_ready(transaction, material.material_id)
    else:
        named = owner or f"key:{key_id}"
        await token_objects.insert_wrapped(
            transaction, material.material_id, named, material.created_at, material.token
        )
    await transaction.insert_material(key_id, material)


async def _generate_object(token: Token, object_id: bytes, key: KeyToBe, algorithm: Algorithm | None) -> bytes:
    """Generate the object or the pair. Return the public key; empty for a secret key."""
    if algorithm is not None:
        await token.generate_key(object_id, algorithm)
    elif key.spec.is_asymmetric:
        return await token.generate_key_pair(object_id, key.spec, key.usage)
    else:
        await token.generate_mac_key(object_id, key.spec)
    return b""
