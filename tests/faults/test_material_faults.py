"""Imports of further objects, and rotations to them, where token or store fails: they are done or not done."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from kmsd.custody import imported_material
from kmsd.jobs import expiry, reconcile
from kmsd.ports import Transaction
from tests.support.clients import code_of
from tests.support.failing_ports import AFTER, RETRIABLE, Failing, FailingStore, Meanwhile, bent, settle
from tests.support.harness import Harness, harness
from tests.support.key_import import (
    add_material,
    current_id,
    current_material_id,
    import_again,
    imported_key,
    materials_of,
    parameters,
    refusals_at_once,
    state_of,
)
from tests.support.material_ids import imported_ids


@pytest.fixture(scope="module", name="harness")
def _harness(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Harness]:
    """With an import token."""
    with harness(tmp_path_factory.mktemp("harness"), import_token=True, custody="object") as found, refusals_at_once():
        yield found


class Case:
    """A key with a blob of its first material, and parameters for further material."""

    def __init__(self, harness: Harness) -> None:
        self.harness, self.kms = harness, harness.client()
        self.first, self.further = os.urandom(32), os.urandom(32)
        self.key_id = imported_key(self.kms, self.first)
        self.first_id = current_id(self.kms, self.key_id)
        self.blob = self.kms.encrypt(KeyId=self.key_id, Plaintext=b"old")["CiphertextBlob"]
        self.given = parameters(self.kms, self.key_id)
        self.before = imported_ids(harness)

    def bring(self) -> str:
        """Import the further material as new."""
        return code_of(self.kms.import_key_material, **self.given.new_members(self.further))

    def expire_in_an_hour(self) -> str:
        """The further material is pending, and has an hour; its id."""
        valid_to = self.harness.clock.now() + timedelta(hours=1)
        return add_material(
            self.kms, self.key_id, self.further, ExpirationModel="KEY_MATERIAL_EXPIRES", ValidTo=valid_to
        )

    def check(self, *, materials: int) -> None:
        """The key has so many materials, each with its object; it is enabled, and the old blob opens."""
        settle(self.harness)
        assert state_of(self.kms, self.key_id) == "Enabled"
        assert [state for _, _, state in materials_of(self.kms, self.key_id)] == ["IMPORTED"] * materials
        assert len(imported_ids(self.harness) - self.before) == materials - 1
        assert self.kms.decrypt(CiphertextBlob=self.blob)["Plaintext"] == b"old"


@AFTER
@pytest.mark.parametrize(("member", "nth"), [("main", 1), ("main", 2), ("store", 1), ("store", 2)])
def test_an_import_of_new_material_fails(harness: Harness, member: str, nth: int, *, after: bool) -> None:
    """The material is pending or is not; the current one goes on, and the import can be repeated."""
    case = Case(harness)
    real = harness.components.token
    failing: Any = FailingStore(harness.components.store, nth, after=after)
    if member == "main":
        failing = Failing(real, "unwrap_key", nth, after=after)
    with bent(harness, member, failing):
        assert case.bring() in RETRIABLE
    assert failing.failed
    done = (member, nth, after) == ("store", 2, True)
    case.check(materials=2 if done else 1)
    assert case.bring() == ("KMSInvalidStateException" if done else "")
    case.check(materials=2)


@AFTER
def test_a_rotation_fails(harness: Harness, *, after: bool) -> None:
    """It is done or not done; what the client then encrypts, it can decrypt."""
    case = Case(harness)
    pending = add_material(case.kms, case.key_id, case.further)
    with bent(harness, "store", FailingStore(harness.components.store, 1, after=after)) as failing:
        assert code_of(case.kms.rotate_key_on_demand, KeyId=case.key_id) in RETRIABLE
    assert failing.failed
    assert current_id(case.kms, case.key_id) == (pending if after else case.first_id)
    blob = case.kms.encrypt(KeyId=case.key_id, Plaintext=b"new")["CiphertextBlob"]
    again = code_of(case.kms.rotate_key_on_demand, KeyId=case.key_id)
    assert again == ("KMSInvalidStateException" if after else "")
    assert case.kms.decrypt(CiphertextBlob=blob)["Plaintext"] == b"new"
    case.check(materials=2)


@AFTER
def test_expired_pending_material_cannot_be_destroyed(harness: Harness, *, after: bool) -> None:
    """Other material has its place all the same; the object goes with the next reconcile."""
    case = Case(harness)
    case.expire_in_an_hour()
    harness.clock.advance(hours=1)
    other = parameters(case.kms, case.key_id).new_members(os.urandom(32))
    with bent(harness, "main", Failing(harness.components.token, "destroy", 1, after=after)) as failing:
        assert code_of(case.kms.import_key_material, **other) in RETRIABLE
    assert failing.failed
    case.check(materials=2)
    case.kms.rotate_key_on_demand(KeyId=case.key_id)


def test_the_rotation_finds_the_material_deleted(harness: Harness) -> None:
    """Between its checks and its transaction: it is refused, and the first material stays current."""
    case = Case(harness)
    pending = add_material(case.kms, case.key_id, case.further)

    async def delete(transaction: Transaction) -> None:
        key = await transaction.key(case.key_id)
        record = imported_material.pending(await transaction.imported_materials(case.key_id))
        assert key is not None
        assert record is not None
        await imported_material.delete(transaction, key, record, harness.clock.now())

    with bent(harness, "store", Meanwhile(harness.components.store, 1, delete)) as meanwhile:
        assert code_of(case.kms.rotate_key_on_demand, KeyId=case.key_id) == "KMSInvalidStateException"
    assert meanwhile.failed
    settle(harness)
    assert materials_of(case.kms, case.key_id) == [
        (case.first_id, "CURRENT", "IMPORTED"),
        (pending, "PENDING_ROTATION", "PENDING_IMPORT"),
    ]
    assert import_again(case.kms, case.key_id, case.further) == pending
    case.check(materials=2)


def test_the_material_is_replaced_while_it_is_imported_again(harness: Harness) -> None:
    """Then it is no longer one of the key's: refused, and its object is destroyed."""
    case = Case(harness)
    pending = add_material(case.kms, case.key_id, case.further)
    case.kms.delete_imported_key_material(KeyId=case.key_id, KeyMaterialId=pending)

    async def forget(transaction: Transaction) -> None:
        record = imported_material.pending(await transaction.imported_materials(case.key_id))
        assert record is not None
        await transaction.delete_imported_material(record.material_id)

    members = case.given.members(case.further)
    with bent(harness, "store", Meanwhile(harness.components.store, 2, forget)) as meanwhile:
        assert code_of(case.kms.import_key_material, **members) == "IncorrectKeyMaterialException"
    assert meanwhile.failed
    case.check(materials=1)


def test_the_job_goes_on_with_the_next_material(harness: Harness) -> None:
    """What it could not destroy, it destroys the next time; until then the store says that it is due."""
    case = Case(harness)
    case.expire_in_an_hour()
    case.kms.rotate_key_on_demand(KeyId=case.key_id)
    case.further = os.urandom(32)
    case.expire_in_an_hour()
    harness.clock.advance(hours=1)
    components = harness.components
    broken: Any = FailingStore(components.store, 3, after=False)
    report = harness.run(expiry.run_once(broken, components.tokens, harness.clock.now(), components.record_job))
    assert broken.failed
    assert len(report.failed) == 1
    assert len(imported_ids(harness) - case.before) == 1
    harness.tick()
    assert imported_ids(harness) == case.before
    assert state_of(case.kms, case.key_id) == "PendingImport"
    settle(harness)


def lose(harness: Harness, object_id: bytes) -> None:
    """The token loses an object, and reconcile finds that out."""
    components = harness.components
    harness.run(components.token.destroy(object_id))
    report = harness.run(reconcile.run_once(components.store, components.token, harness.clock.now()))
    assert object_id in report.missing


def test_lost_materials_come_back(harness: Harness) -> None:
    """The key is not rotated to pending material that the token lost; earlier material opens nothing until then."""
    case = Case(harness)
    earlier = current_material_id(harness, case.key_id)
    pending = add_material(case.kms, case.key_id, case.further)
    (waiting,) = imported_ids(harness) - case.before
    lose(harness, waiting)
    assert code_of(case.kms.rotate_key_on_demand, KeyId=case.key_id) == "KMSInvalidStateException"
    assert import_again(case.kms, case.key_id, case.further) == pending
    case.kms.rotate_key_on_demand(KeyId=case.key_id)
    lose(harness, earlier)
    assert code_of(case.kms.decrypt, CiphertextBlob=case.blob) == "KeyUnavailableException"
    blob = case.kms.encrypt(KeyId=case.key_id, Plaintext=b"new")["CiphertextBlob"]
    assert import_again(case.kms, case.key_id, case.first) == case.first_id
    assert case.kms.decrypt(CiphertextBlob=blob)["Plaintext"] == b"new"
    case.check(materials=2)
