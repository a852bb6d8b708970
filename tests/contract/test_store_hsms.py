"""Keys of the daemon itself that are wrapped, on every adapter; and nodes with HSMs of their own, on PostgreSQL."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest
from msgspec.structs import replace

from kmsd.adapters.postgres import schema
from kmsd.adapters.postgres.store import PostgresStore
from kmsd.custody import import_parameters, token_objects
from kmsd.custody.wrapped_material import has_several_hsms, lacking_domain_keys
from kmsd.domain.domain_key import DomainKey, DomainKeyState
from kmsd.domain.key_import import WrappingKey
from kmsd.domain.material import (
    Algorithm,
    MaterialIdentity,
    MaterialStatus,
    TokenName,
    WrappedMaterial,
    service_identity,
    wrapping_key_identity,
)
from kmsd.ports import AUDIT, Node, ServiceKey, Store, TokenObject
from tests.contract.stores import Pair
from tests.support.postgres import cluster
from tests.support.stored_keys import a_domain_key

NOW = datetime(2026, 11, 30, tzinfo=UTC)
SEALING = "sealing:wrapped"
Sites = tuple[PostgresStore, PostgresStore]


def of(domain_key: DomainKey, identity: MaterialIdentity, public_key: bytes = b"") -> WrappedMaterial:
    """Wrapped material that is bound to something."""
    name, content, mac = domain_key.domain_key_id, secrets.token_bytes(40), secrets.token_bytes(16)
    return WrappedMaterial(identity, name, domain_key.binding_key, 8457, content, mac, public_key)


async def a_service_key(store: Store, domain_key: DomainKey) -> ServiceKey:
    """A wrapped one."""
    name, algorithm = secrets.token_bytes(16), Algorithm.XAES_256_GCM
    key = ServiceKey(SEALING, name, algorithm, of(domain_key, service_identity(SEALING, name, algorithm)))
    async with store.write() as transaction:
        await transaction.insert_token_object(wrapped_row(name, "service:sealing"))
        await transaction.insert_service_key(key)
    return key


def wrapped_row(object_id: bytes, owner: str) -> TokenObject:
    """The row that every material has."""
    return TokenObject(object_id, owner, MaterialStatus.READY, NOW, TokenName.MAIN, is_wrapped=True)


async def a_wrapping_key(store: Store, domain_key: DomainKey) -> WrappingKey:
    """A wrapped one, in the pool."""
    name = secrets.token_bytes(16)
    material = of(domain_key, wrapping_key_identity(name, 2048), b"public half")
    key = WrappingKey(name, TokenName.MAIN, 2048, b"public half", NOW, wrapped=material)
    async with store.write() as transaction:
        await transaction.insert_token_object(wrapped_row(name, "import:RSA_2048"))
        await transaction.insert_wrapping_key(key)
    return key


async def test_keys_of_the_daemon_are_wrapped(stores: Pair) -> None:
    """They are read back with everything that their MAC covers, count as material, and move to another domain key."""
    first, second = stores
    old, new = await a_domain_key(first, DomainKeyState.RETIRING), await a_domain_key(first)
    service, wrapping = await a_service_key(first, old), await a_wrapping_key(first, old)
    reader = await second.read()
    assert await reader.service_keys() == {SEALING: service}
    assert await reader.wrapping_keys() == [wrapping]
    assert await reader.wrapped_counts() == {old.domain_key_id: 2}
    under = await reader.wrapped_under(old.domain_key_id, b"", 10)
    assert {one.material_id: one for one in under} == {
        service.object_id: service.wrapped,
        wrapping.object_id: wrapping.wrapped,
    }
    for material in under:
        async with first.write() as transaction:
            moved = replace(
                material, domain_key_id=new.domain_key_id, binding_key=new.binding_key, mac=secrets.token_bytes(16)
            )
            await transaction.replace_wrapped(material, moved, NOW)
    reader = await second.read()
    (found,) = (await reader.service_keys()).values()
    assert found.wrapped is not None
    assert found.wrapped.domain_key_id == new.domain_key_id
    assert await reader.wrapped_counts() == {old.domain_key_id: 0, new.domain_key_id: 2}


async def test_a_wrapped_wrapping_key_ends(stores: Pair) -> None:
    """With its material, which is not read again."""
    first, second = stores
    domain_key = await a_domain_key(first)
    key = await a_wrapping_key(first, domain_key)
    async with second.write() as transaction:
        await import_parameters.mark_destroying(transaction, key.object_id)
    reader = await first.read()
    assert await reader.wrapping_keys() == []
    assert await reader.token_object(key.object_id) is None
    assert await reader.wrapped_counts() == {domain_key.domain_key_id: 0}


@pytest.fixture(name="sites")
async def _sites() -> AsyncIterator[Sites]:
    """Processes of two nodes, each with an HSM of its own."""
    settings = cluster().database()
    await schema.create(settings)
    nodes = [Node(digit * 32, f"node-{digit}", NOW, NOW, "", hsm) for digit, hsm in (("a", ""), ("b", "south"))]
    opened = [await PostgresStore.open(settings, "", node.hsm) for node in nodes]
    async with opened[0].write() as transaction:
        for node in nodes:
            await transaction.insert_node(node)
    yield opened[0], opened[1]
    for store in opened:
        await store.close()


async def test_each_has_objects_of_its_own(sites: Sites) -> None:
    """Of the same names; those of the other HSM are named as such, and nothing of this node destroys them."""
    made = []
    for store in sites:
        object_id = await token_objects.record_intent(store, "service:audit", NOW)
        async with store.write() as transaction:
            await token_objects.mark_ready(transaction, object_id)
            await transaction.insert_service_key(ServiceKey(AUDIT, object_id, None))
            await transaction.publish_audit_key(bytes((len(made),)))
            await transaction.publish_audit_key(b"another")
        made.append(object_id)
    for store, (mine, other) in zip(sites, (made, made[::-1]), strict=True):
        reader = await store.read()
        assert await has_several_hsms(reader)
        keys = await reader.service_keys()
        assert keys[AUDIT].object_id == mine
        assert {key.public_key for key in keys.values()} == {b"\0", b"\1"}
        assert [key.object_id for purpose, key in keys.items() if purpose.startswith("audit@")] == [other]
        rows = {row.object_id: row.token for row in await reader.token_objects()}
        assert (rows[mine], rows[mine].is_elsewhere, rows[other].is_elsewhere) == (TokenName.MAIN, False, True)


async def test_which_hsm_holds_a_domain_key(sites: Sites) -> None:
    """A node whose HSM lacks one that is needed knows; one that no HSM holds is missing."""
    north, south = sites
    domain_key = await a_domain_key(north)
    name = domain_key.domain_key_id

    async def lacking() -> list[int]:
        return [len(await lacking_domain_keys(await store.read())) for store in sites]

    async def hold(store: Store, *, is_held: bool) -> None:
        async with store.write() as transaction:
            await transaction.set_domain_key_held(name, is_held=is_held)

    async def is_missing() -> bool:
        return (await (await south.read()).domain_keys())[0].is_missing

    await hold(north, is_held=True)
    assert await lacking() == [0, 1]
    await hold(south, is_held=True)
    await hold(south, is_held=True)
    assert await (await north.read()).domain_key_holders() == {name: {"", "south"}}
    assert await lacking() == [0, 0]
    await hold(north, is_held=False)
    assert await lacking() == [1, 0]
    assert not await is_missing()
    await hold(south, is_held=False)
    assert await is_missing()
    await hold(south, is_held=True)
    assert not await is_missing()
    async with north.write() as transaction:
        await transaction.delete_node("b" * 32)
    assert await (await north.read()).domain_key_holders() == {}
    assert not await has_several_hsms(await north.read())
