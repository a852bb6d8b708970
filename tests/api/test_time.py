"""What time brings about: deletion, rotation, and both after the daemon was down at the moment."""

from __future__ import annotations

import asyncio

import pytest

from kmsd.jobs.scheduler import Scheduler
from tests.support.clients import code_of
from tests.support.harness import Harness
from tests.support.material_ids import held_ids

ME = "arn:aws:iam::000000000000:user/admin"


def test_deletion_takes_everything_and_frees_the_names(harness: Harness) -> None:
    """From the instant of its date the key does not exist; the job destroys all its objects, aliases and grants."""
    kms = harness.client()
    before = held_ids(harness)
    key_id = kms.create_key()["KeyMetadata"]["KeyId"]
    kms.rotate_key_on_demand(KeyId=key_id)
    kms.create_alias(AliasName="alias/doomed", TargetKeyId=key_id)
    grant = kms.create_grant(KeyId=key_id, GranteePrincipal=ME, RetiringPrincipal=ME, Operations=["Decrypt"])
    blob = kms.encrypt(KeyId=key_id, Plaintext=b"x")["CiphertextBlob"]
    assert len(held_ids(harness) - before) == 2
    kms.schedule_key_deletion(KeyId=key_id, PendingWindowInDays=7)
    harness.clock.advance(days=6, hours=23)
    harness.tick()
    assert kms.describe_key(KeyId=key_id)["KeyMetadata"]["KeyState"] == "PendingDeletion"
    harness.clock.advance(hours=2)

    def gone() -> None:
        assert code_of(kms.describe_key, KeyId=key_id) == "NotFoundException"
        assert code_of(kms.decrypt, CiphertextBlob=blob) == "AccessDeniedException"
        assert code_of(kms.cancel_key_deletion, KeyId=key_id) == "NotFoundException"
        assert code_of(kms.describe_key, KeyId="alias/doomed") == "NotFoundException"
        assert code_of(kms.list_grants, KeyId=key_id) == "NotFoundException"
        assert "alias/doomed" not in [alias["AliasName"] for alias in kms.list_aliases()["Aliases"]]
        assert key_id not in [key["KeyId"] for key in kms.list_keys(Limit=1000)["Keys"]]
        assert kms.list_retirable_grants(RetiringPrincipal=ME)["Grants"] == []

    gone()  # by the clock alone
    harness.tick()
    gone()
    assert held_ids(harness) == before
    assert code_of(kms.retire_grant, GrantToken=grant["GrantToken"]) == "InvalidGrantTokenException"
    kms.create_alias(AliasName="alias/doomed", TargetKeyId=kms.create_key()["KeyMetadata"]["KeyId"])
    harness.tick()
    deleted = [record for record in harness.records() if record["eventName"] == "DeleteKey"]
    assert deleted[-1]["serviceEventDetails"]["keyId"] == key_id


def test_rotation_each_period(harness: Harness) -> None:
    """A due key gets one material, however many periods were missed; old blobs still open; the next date follows."""
    kms = harness.client()
    key_id = kms.create_key()["KeyMetadata"]["KeyId"]
    kms.enable_key_rotation(KeyId=key_id, RotationPeriodInDays=90)
    old = kms.encrypt(KeyId=key_id, Plaintext=b"old")["CiphertextBlob"]
    harness.clock.advance(days=89)
    harness.tick()
    assert kms.list_key_rotations(KeyId=key_id)["Rotations"] == []
    harness.clock.advance(days=400)
    harness.tick()
    harness.tick()
    rotations = kms.list_key_rotations(KeyId=key_id)["Rotations"]
    assert [rotation["RotationType"] for rotation in rotations] == ["AUTOMATIC"]
    new = kms.encrypt(KeyId=key_id, Plaintext=b"new")["CiphertextBlob"]
    assert old[18:34] != new[18:34]
    assert kms.decrypt(CiphertextBlob=old)["Plaintext"] == b"old"
    assert kms.decrypt(CiphertextBlob=new)["Plaintext"] == b"new"
    status = kms.get_key_rotation_status(KeyId=key_id)
    waits = status["NextRotationDate"].timestamp() - harness.clock.now().timestamp()
    assert 89 * 86400 < waits <= 90 * 86400


@pytest.mark.parametrize("pause", ["disable", "schedule"])
def test_rotation_pauses(harness: Harness, pause: str) -> None:
    """A disabled key, or one that awaits deletion, is not rotated; once it is enabled again, what fell due is done."""
    kms = harness.client()
    key_id = kms.create_key()["KeyMetadata"]["KeyId"]
    kms.enable_key_rotation(KeyId=key_id, RotationPeriodInDays=90)
    harness.clock.advance(days=80)
    if pause == "disable":
        kms.disable_key(KeyId=key_id)
    else:
        kms.schedule_key_deletion(KeyId=key_id, PendingWindowInDays=30)
        assert kms.get_key_rotation_status(KeyId=key_id)["KeyRotationEnabled"] is False
    harness.clock.advance(days=20)
    harness.tick()
    assert kms.list_key_rotations(KeyId=key_id)["Rotations"] == []
    if pause == "schedule":
        kms.cancel_key_deletion(KeyId=key_id)
    assert kms.get_key_rotation_status(KeyId=key_id)["KeyRotationEnabled"] is True
    kms.enable_key(KeyId=key_id)
    harness.tick()
    assert len(kms.list_key_rotations(KeyId=key_id)["Rotations"]) == 1


def test_on_demand_rotation_keeps_the_automatic_dates(harness: Harness) -> None:
    """And is bounded."""
    kms = harness.client()
    key_id = kms.create_key()["KeyMetadata"]["KeyId"]
    kms.enable_key_rotation(KeyId=key_id)
    before = kms.get_key_rotation_status(KeyId=key_id)["NextRotationDate"]
    blobs = []
    for _ in range(25):
        blobs.append(kms.encrypt(KeyId=key_id, Plaintext=b"x")["CiphertextBlob"])
        kms.rotate_key_on_demand(KeyId=key_id)
    assert code_of(kms.rotate_key_on_demand, KeyId=key_id) == "LimitExceededException"
    assert kms.get_key_rotation_status(KeyId=key_id)["NextRotationDate"] == before
    assert all(kms.decrypt(CiphertextBlob=blob)["Plaintext"] == b"x" for blob in blobs[::5])
    assert len({blob[18:34] for blob in blobs}) == 25
    everything = kms.list_key_rotations(KeyId=key_id, IncludeKeyMaterial="ALL_KEY_MATERIAL", Limit=1000)["Rotations"]
    assert [entry["KeyMaterialState"] for entry in everything] == ["NON_CURRENT"] * 25 + ["CURRENT"]


def test_one_process_holds_the_lease(harness: Harness) -> None:
    """Another holder does nothing until the lease has expired, or was given up by a process that ends."""
    harness.tick()
    other = Scheduler(
        harness.components.store, harness.components.tokens, harness.clock, harness.components.record_job, "other"
    )
    assert harness.run(other._acquire()).of_database is False
    harness.clock.advance(seconds=91)
    assert harness.run(other._acquire()).of_database is True
    assert harness.run(harness.scheduler._acquire()).of_database is False

    async def begin_and_stop(scheduler: Scheduler) -> None:
        stopping = asyncio.Event()
        stopping.set()
        await scheduler.run(stopping)

    harness.run(begin_and_stop(harness.scheduler))  # holds nothing, and so takes nothing away
    assert harness.run(harness.scheduler._acquire()).of_database is False
    harness.run(begin_and_stop(other))
    assert harness.run(harness.scheduler._acquire()).of_database is True
    harness.clock.advance(seconds=91)
