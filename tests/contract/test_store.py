"""The promises of `kmsd.ports.Store`, on every adapter."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime, timedelta

import pytest
from msgspec.structs import replace

from kmsd.adapters.sql import reader as reader_module
from kmsd.app import SystemClock
from kmsd.custody import token_objects
from kmsd.domain.grant import Grant
from kmsd.domain.identity import AccessKey, AccessKeyStatus, Role, User
from kmsd.domain.key import Key
from kmsd.domain.key_spec import KeySpec, KeyUsage
from kmsd.domain.key_state import KeyState, Transition
from kmsd.domain.key_usage import KeyUse
from kmsd.domain.material import Algorithm, Material, MaterialStatus, TokenName
from kmsd.jobs.leased_store import LeasedStore
from kmsd.ports import KindOfMaterial, SharedPolicy, Store, StoreConflict, StoreUnavailable
from tests.contract.stores import Pair
from tests.support import domain_keys
from tests.support.domain_keys import ACCOUNT, KEY_ID
from tests.support.domain_keys import CREATED as NOW


async def a_key(store: Store, key_id: str = KEY_ID) -> Key:
    """An enabled key with material, in the store."""
    material_id = await token_objects.record_intent(store, f"key:{key_id}", NOW)
    material = Material(material_id, Algorithm.XAES_256_GCM, MaterialStatus.READY, NOW)
    key = domain_keys.a_key(key_id=key_id, current_material=material)
    async with store.write() as transaction:
        await transaction.insert_account(ACCOUNT, NOW)
        await transaction.insert_key(key)
        await token_objects.mark_ready(transaction, material_id)
        await transaction.insert_material(key_id, material)
    return key


async def found(store: Store, key_id: str = KEY_ID) -> Key:
    """The key, as a new request reads it."""
    key = await (await store.read()).key(key_id)
    assert key is not None
    return key


async def test_what_is_committed_is_read_at_once(stores: Pair) -> None:
    """By the process that wrote and by another: a disabled key is disabled in the next request of both."""
    first, second = stores
    await a_key(first)
    before = await found(second)
    async with first.write() as transaction:
        key = await transaction.key(KEY_ID)
        assert key is not None
        await transaction.update_key(key, key.after(Transition.DISABLE))
    assert (await found(first)).state is (await found(second)).state is KeyState.DISABLED
    assert before.state is KeyState.ENABLED


async def test_an_object_is_the_same_until_its_row_changes(stores: Pair) -> None:
    """Decisions are cached by identity: an unchanged key is the same object, a changed one is another."""
    first, second = stores
    await a_key(first)
    await a_key(first, "99999999-2222-4333-8444-555555555555")
    kept = await found(second)
    async with first.write() as transaction:
        other = await transaction.key("99999999-2222-4333-8444-555555555555")
        assert other is not None
        await transaction.update_key(other, replace(other, description="changed"))
    assert await found(second) is kept
    async with first.write() as transaction:
        key = await transaction.key(KEY_ID)
        assert key is not None
        await transaction.update_key(key, replace(key, description="changed"))
    changed = await found(second)
    assert changed is not kept
    assert (kept.description, changed.description) == ("", "changed")


async def test_a_grant_and_its_revocation_change_what_is_read(stores: Pair) -> None:
    """Grants follow their rows as keys do."""
    first, second = stores
    await a_key(first)
    user = f"arn:aws:iam::{ACCOUNT}:user/u"
    grant = Grant(
        grant_id=secrets.token_hex(32),
        key_id=KEY_ID,
        name=None,
        grantee_principal=user,
        retiring_principal=None,
        encryption_context_equals=None,
        encryption_context_subset=None,
        issuing_account=ACCOUNT,
        issuing_principal=user,
        operations=("Encrypt",),
        created_at=NOW,
    )
    assert list(await (await second.read()).grants_to(KEY_ID, (user,))) == []
    async with first.write() as transaction:
        await transaction.insert_grant(grant)
    assert [one.grant_id for one in await (await second.read()).grants_to(KEY_ID, (user,))] == [grant.grant_id]
    async with first.write() as transaction:
        await transaction.delete_grant(grant.grant_id)
    assert list(await (await second.read()).grants_to(KEY_ID, (user,))) == []


async def test_a_block_that_raises_changes_nothing(stores: Pair) -> None:
    """Neither for others nor for the next transaction."""
    first, second = stores
    key = await a_key(first)

    async def fail() -> None:
        async with first.write() as transaction:
            await transaction.update_key(key, replace(key, description="lost"))
            raise LookupError

    with pytest.raises(LookupError):
        await fail()
    assert (await found(first)).description == (await found(second)).description == ""
    async with second.write() as transaction:
        again = await transaction.key(KEY_ID)
    assert again is not None
    assert again.description == ""


async def test_a_change_of_an_old_state_conflicts(stores: Pair) -> None:
    """Compare and swap: a key that another process has changed is not overwritten."""
    first, second = stores
    old = await a_key(first)
    async with second.write() as transaction:
        await transaction.update_key(old, old.after(Transition.DISABLE))
    with pytest.raises(StoreConflict):
        async with first.write() as transaction:
            await transaction.update_key(old, replace(old, description="stale"))
    key = await found(first)
    assert (key.state, key.description) == (KeyState.DISABLED, "")


async def test_the_destruction_of_an_object_is_announced(stores: Pair) -> None:
    """Each process hears of it, whichever marked it, before the read returns that shows it."""
    first, second = stores
    key = await a_key(first)
    material = key.current_material
    assert material is not None
    heard: dict[str, list[bytes]] = {"first": [], "second": []}
    first.on_object_destroying(heard["first"].append)
    second.on_object_destroying(heard["second"].append)
    await first.read()
    await second.read()
    async with first.write() as transaction:
        await transaction.set_object_status(material.material_id, MaterialStatus.READY, MaterialStatus.DESTROYING)
    await first.read()
    await second.read()
    assert heard == {"first": [material.material_id], "second": [material.material_id]}


async def test_one_holder_has_a_lease(stores: Pair) -> None:
    """Until it expires or is released; the holder can renew it."""
    first, second = stores

    async def acquire(store: Store, holder: str, *, seconds: int = 90) -> bool:
        async with store.write() as transaction:
            now = datetime.now(UTC)
            return await transaction.acquire_lease("jobs", holder, now, now + timedelta(seconds=seconds))

    assert await acquire(first, "a")
    assert not await acquire(second, "b")
    assert await acquire(first, "a")
    async with first.write() as transaction:
        await transaction.release_lease("jobs", "a")
    assert await acquire(second, "b")
    assert not await acquire(first, "a")
    assert await acquire(second, "b", seconds=0)
    assert await acquire(first, "a")


async def test_a_process_that_has_lost_the_lease_changes_nothing(stores: Pair) -> None:
    """Each transaction of a job finds out if another process has the lease meanwhile; until then it renews the own."""
    first, second = stores
    jobs, others = (
        LeasedStore(store, SystemClock(), "running", store_name, timedelta(seconds=90))
        for store, store_name in ((first, "a"), (second, "b"))
    )
    known = await token_objects.record_intent(jobs, "key:x", NOW)
    with pytest.raises(StoreUnavailable, match="the lease running was lost"):
        await token_objects.record_intent(others, "key:y", NOW)
    async with first.write() as transaction:
        await transaction.release_lease("running", "a")
    await token_objects.record_intent(others, "key:y", NOW)
    with pytest.raises(StoreUnavailable, match="the lease running was lost"):
        async with jobs.write() as transaction:
            await transaction.set_object_status(known, MaterialStatus.CREATING, MaterialStatus.DESTROYING)
    found = await (await jobs.read()).token_object(known)
    assert found is not None
    assert found.status is MaterialStatus.CREATING


async def test_a_key_of_any_kind_is_read_as_it_was_written(stores: Pair) -> None:
    """Spec, usage, algorithms, public key and token of a material."""
    first, second = stores
    token = TokenName("second")
    material_id = await token_objects.record_intent(first, f"key:{KEY_ID}", NOW, token=token)
    material = Material(material_id, None, MaterialStatus.READY, NOW, token=token, public_key=b"public")
    key = domain_keys.a_key(
        current_material=material,
        materials={material_id: material},
        spec=KeySpec.ECC_NIST_P256,
        usage=KeyUsage.SIGN_VERIFY,
        algorithms=("ECDSA_SHA_256",),
    )
    async with first.write() as transaction:
        await transaction.insert_account(ACCOUNT, NOW)
        await transaction.insert_key(key)
        await token_objects.mark_ready(transaction, material_id)
        await transaction.insert_material(KEY_ID, material)
    assert await found(second) == key


async def test_the_later_use_of_a_key_counts(stores: Pair) -> None:
    """Whichever process records it first; a key that is gone has none."""
    first, second = stores
    await a_key(first)
    later = KeyUse(KEY_ID, "Decrypt", NOW + timedelta(seconds=1), "event-2", "request-2")
    earlier = KeyUse(KEY_ID, "Encrypt", NOW, "event-1", "request-1")
    for store, use in ((first, later), (second, earlier)):
        async with store.write() as transaction:
            await transaction.put_key_uses([use, replace(use, key_id="no such key")])
    for store in stores:
        assert await (await store.read()).key_use(KEY_ID) == later
        assert await (await store.read()).key_use("no such key") is None
    async with first.write() as transaction:
        await transaction.delete_key(KEY_ID)
    assert await (await second.read()).key_use(KEY_ID) is None


async def test_identities_are_read_as_they_were_written(stores: Pair) -> None:
    """Names, documents and tags with quotes, backslashes, controls and letters of all planes; or without any."""
    odd = 'a"b\\c\nd\te\x01\u00e9\u2028\U0001f511 {"x": null} 7'
    texts = {odd: odd, "7": "7", "": ""}
    user = User(ACCOUNT, "odd", "AIDA1", "arn:aws:iam::1:user/odd", NOW, texts, texts)
    plain = User(ACCOUNT, "plain", "AIDA2", "arn:aws:iam::1:user/plain", NOW)
    role = Role(ACCOUNT, "odd", "AROA1", "arn:aws:iam::1:role/odd", odd, 3600, NOW, texts, texts)
    keys = [AccessKey(f"AKIA{number}", user, b"\0", AccessKeyStatus.ACTIVE, NOW) for number in range(2)]
    store, other = stores
    async with store.write() as transaction:
        await transaction.insert_account(ACCOUNT, NOW)
        for one in (user, plain):
            await transaction.insert_user(one)
        await transaction.insert_role(role)
        for key in keys:
            await transaction.insert_access_key(key)
    reader = await other.read()
    assert await reader.users() == [user, plain]
    assert await reader.user(ACCOUNT, "plain") == plain
    assert await reader.roles() == [role]
    assert await reader.role(ACCOUNT, "odd") == role
    assert await reader.access_keys_of(ACCOUNT, "odd") == keys
    assert await reader.access_key("AKIA1") == keys[1]
    assert await reader.access_keys_of(ACCOUNT, "plain") == []


async def test_material_is_counted_by_kind(stores: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of it, in statements for a few keys each; a key without material ends no counting."""
    monkeypatch.setattr(reader_module, "COUNTED_KEYS", 2)
    store, other = stores
    for number in range(3):
        await a_key(store, f"{number}{KEY_ID[1:]}")
    async with store.write() as transaction:
        for number in range(3, 6):
            await transaction.insert_key(domain_keys.a_key(key_id=f"{number}{KEY_ID[1:]}", current_material=None))
    await a_key(store, f"6{KEY_ID[1:]}")
    found = await (await other.read()).kinds_of_material()
    kind = KindOfMaterial(KeySpec.SYMMETRIC_DEFAULT, KeyUsage.ENCRYPT_DECRYPT, Algorithm.XAES_256_GCM)
    assert found == {kind: 4}


async def test_policies_of_all_keys(stores: Pair) -> None:
    """Each once in a page of keys, with their number; keys whose deletion is due do not count, and end no page."""
    store, other = stores
    first, *_ = [await a_key(store, f"{number}{KEY_ID[1:]}") for number in range(4)]
    doomed = await found(store, f"3{KEY_ID[1:]}")
    async with store.write() as transaction:
        changed = replace(doomed.after(Transition.SCHEDULE_DELETION), deletion_at=NOW, policy="other")
        await transaction.update_key(doomed, changed)
        for grant in (a_grant("1", first.key_id), a_grant("2", first.key_id), a_grant("3", doomed.key_id)):
            await transaction.insert_grant(grant)
    reader = await other.read()
    shared = SharedPolicy(first.policy, first.arn, 3)
    assert await reader.policies_after("", 3, NOW) == (f"2{KEY_ID[1:]}", [shared])
    assert await reader.policies_after(f"2{KEY_ID[1:]}", 3, NOW) == (f"3{KEY_ID[1:]}", [])
    assert await reader.policies_after(f"3{KEY_ID[1:]}", 3, NOW) == ("", [])
    assert {one.grant_id[0] for one in await reader.grants_for("arn:grantee", 9, NOW)} == {"1", "2"}
    assert len(await reader.grants_for("arn:grantee", 1, NOW)) == 1
    assert await reader.grants_for("arn:other", 9, NOW) == []


def a_grant(grant_id: str, key_id: str) -> Grant:
    """A grant on a key."""
    return Grant(grant_id * 64, key_id, None, "arn:grantee", None, ("Encrypt",), None, None, ACCOUNT, "arn:issuer", NOW)
