"""Several materials of one key, each with an expiry of its own."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.support.clients import code_of
from tests.support.dated_keys import clock_of_other_node
from tests.support.harness import Harness
from tests.support.key_import import (
    FOREVER,
    add_material,
    external_key,
    import_again,
    imported_key,
    materials_of,
    state_of,
)
from tests.support.material_ids import imported_ids

JOB = pytest.mark.parametrize("job_runs", [False, True], ids=["before the job", "after the job"])


def until(harness: Harness, hours: int) -> dict[str, Any]:
    """Members of an import: the material expires in so many hours."""
    return until_time(harness.clock.now().replace(microsecond=0) + timedelta(hours=hours))


def until_time(valid_to: datetime) -> dict[str, Any]:
    """Members of an import: the material expires then."""
    return {"ExpirationModel": "KEY_MATERIAL_EXPIRES", "ValidTo": valid_to}


def pass_hours(harness: Harness, hours: int, *, job_runs: bool) -> None:
    """Let time pass, and the jobs run if so wanted."""
    harness.clock.advance(hours=hours)
    if job_runs:
        harness.tick()


class Expiring:
    """A key with two materials: `old` expires in one hour, `new`, the current one, in three."""

    def __init__(self, harness: Harness, kms: Any) -> None:
        self.kms, self.key_id = kms, external_key(kms)
        self.old, self.new = os.urandom(32), os.urandom(32)
        self.first, self.third = until(harness, 1), until(harness, 3)
        self.old_id = import_again(kms, self.key_id, self.old, **self.first)
        self.blob = kms.encrypt(KeyId=self.key_id, Plaintext=b"old")["CiphertextBlob"]
        self.new_id = add_material(kms, self.key_id, self.new, **self.third)
        kms.rotate_key_on_demand(KeyId=self.key_id)

    def metadata(self) -> dict[str, Any]:
        """`KeyMetadata`."""
        found: dict[str, Any] = self.kms.describe_key(KeyId=self.key_id)["KeyMetadata"]
        return found

    def shown_expiry(self) -> tuple[str | None, datetime | None]:
        """ExpirationModel and ValidTo of the key."""
        metadata = self.metadata()
        return metadata.get("ExpirationModel"), metadata.get("ValidTo")


def expiry_of(members: dict[str, Any]) -> tuple[str, datetime]:
    """The same of the members of an import."""
    return members["ExpirationModel"], members["ValidTo"].astimezone(UTC)


@JOB
def test_the_earliest_expiry_counts(harness: Harness, kms: Any, *, job_runs: bool) -> None:
    """The key shows it, and awaits import from then on; only that material is destroyed, and comes back."""
    key = Expiring(harness, kms)
    before = imported_ids(harness)
    assert key.shown_expiry() == expiry_of(key.first)
    pass_hours(harness, 1, job_runs=job_runs)
    assert len(before - imported_ids(harness)) == (1 if job_runs else 0)
    metadata = key.metadata()
    assert (metadata["KeyState"], metadata["CurrentKeyMaterialId"]) == ("PendingImport", key.new_id)
    assert key.shown_expiry() == (None, None)
    assert materials_of(kms, key.key_id) == [
        (key.old_id, "NON_CURRENT", "PENDING_IMPORT"),
        (key.new_id, "CURRENT", "IMPORTED"),
    ]
    shown = kms.list_key_rotations(KeyId=key.key_id, IncludeKeyMaterial="ALL_KEY_MATERIAL")["Rotations"]
    assert [one.get("ValidTo") for one in shown] == [None, expiry_of(key.third)[1]]
    assert code_of(kms.encrypt, KeyId=key.key_id, Plaintext=b"x") == "KMSInvalidStateException"
    assert import_again(kms, key.key_id, key.new, **key.third) == key.new_id
    assert state_of(kms, key.key_id) == "PendingImport"
    assert import_again(kms, key.key_id, key.old, **FOREVER) == key.old_id
    assert state_of(kms, key.key_id) == "Enabled"
    assert key.shown_expiry() == expiry_of(key.third)
    assert kms.decrypt(CiphertextBlob=key.blob)["Plaintext"] == b"old"
    assert imported_ids(harness) == before


@JOB
def test_all_expire(harness: Harness, kms: Any, *, job_runs: bool) -> None:
    """The key works when the last one is back."""
    key = Expiring(harness, kms)
    pass_hours(harness, 4, job_runs=job_runs)
    assert [state for _, _, state in materials_of(kms, key.key_id)] == ["PENDING_IMPORT", "PENDING_IMPORT"]
    for material in (key.new, key.old):
        assert state_of(kms, key.key_id) == "PendingImport"
        import_again(kms, key.key_id, material, **FOREVER)
    assert (state_of(kms, key.key_id), key.shown_expiry()) == ("Enabled", ("KEY_MATERIAL_DOES_NOT_EXPIRE", None))


def test_a_disabled_key_whose_material_expired(harness: Harness, kms: Any) -> None:
    """Is enabled by the import of what it lacks, as after a deletion."""
    key = Expiring(harness, kms)
    kms.disable_key(KeyId=key.key_id)
    pass_hours(harness, 1, job_runs=False)
    import_again(kms, key.key_id, key.new, **FOREVER)
    assert state_of(kms, key.key_id) == "PendingImport"
    import_again(kms, key.key_id, key.old, **FOREVER)
    assert state_of(kms, key.key_id) == "Enabled"


@JOB
def test_cancelled_deletion_of_a_key_whose_material_expired(harness: Harness, kms: Any, *, job_runs: bool) -> None:
    """It awaits import, even if the current material is there."""
    key = Expiring(harness, kms)
    kms.schedule_key_deletion(KeyId=key.key_id, PendingWindowInDays=7)
    pass_hours(harness, 2, job_runs=job_runs)
    assert state_of(kms, key.key_id) == "PendingDeletion"
    kms.cancel_key_deletion(KeyId=key.key_id)
    assert state_of(kms, key.key_id) == "PendingImport"


@JOB
def test_pending_material_expires(harness: Harness, kms: Any, *, job_runs: bool) -> None:
    """Its key goes on, and cannot be rotated; other material takes its place, and one object of the two is left."""
    key_id, waiting = imported_key(kms, os.urandom(32)), os.urandom(32)
    before = imported_ids(harness)
    metadata = kms.describe_key(KeyId=key_id)["KeyMetadata"]
    pending = add_material(kms, key_id, waiting, **until(harness, 1))
    assert kms.describe_key(KeyId=key_id)["KeyMetadata"] == metadata
    pass_hours(harness, 1, job_runs=job_runs)
    assert kms.describe_key(KeyId=key_id)["KeyMetadata"] == metadata
    assert materials_of(kms, key_id)[1] == (pending, "PENDING_ROTATION", "PENDING_IMPORT")
    assert code_of(kms.rotate_key_on_demand, KeyId=key_id) == "KMSInvalidStateException"
    assert import_again(kms, key_id, waiting, **until(harness, 1)) == pending
    pass_hours(harness, 1, job_runs=job_runs)
    other = add_material(kms, key_id, os.urandom(32), **until(harness, 1))
    assert [material_id for material_id, _, _ in materials_of(kms, key_id)][1:] == [other]
    assert len(imported_ids(harness) - before) == 1
    kms.rotate_key_on_demand(KeyId=key_id)
    assert "ValidTo" in kms.describe_key(KeyId=key_id)["KeyMetadata"]
    pass_hours(harness, 1, job_runs=job_runs)
    assert state_of(kms, key_id) == "PendingImport"


def test_pending_material_stays_until_all_nodes_agree(harness: Harness, kms: Any) -> None:
    """While the clock of another node says that it has not expired, other material does not take its place."""
    key_id = imported_key(kms, os.urandom(32))
    before = imported_ids(harness)
    pending = add_material(kms, key_id, os.urandom(32), **until(harness, 1))
    harness.clock.advance(hours=2)
    harness.run(harness.scheduler._acquire())
    with clock_of_other_node(harness, minutes=70):
        refusal = code_of(add_material, kms, key_id, os.urandom(32), **until(harness, 1))
    assert refusal == "ThrottlingException"
    assert materials_of(kms, key_id)[1][0] == pending
    assert len(imported_ids(harness) - before) == 1
    with clock_of_other_node(harness, minutes=50):
        other = add_material(kms, key_id, os.urandom(32), **until(harness, 1))
    assert materials_of(kms, key_id)[1][0] == other


def test_each_destruction_is_recorded(harness: Harness, kms: Any) -> None:
    """With the material's id; a second run finds nothing to do."""
    key = Expiring(harness, kms)
    pending = add_material(kms, key.key_id, os.urandom(32), **until(harness, 2))
    pass_hours(harness, 4, job_runs=True)
    harness.tick()
    destroyed = [
        record["serviceEventDetails"]["keyMaterialId"]
        for record in harness.records()
        if record["eventName"] == "DeleteExpiredKeyMaterial"
    ]
    assert sorted(one for one in destroyed if one in {key.old_id, key.new_id, pending}) == sorted(
        [key.old_id, key.new_id, pending]
    )
