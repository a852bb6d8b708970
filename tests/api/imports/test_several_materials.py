"""Several materials of one key: pending, current and earlier ones, how they are imported, rotated and deleted."""

from __future__ import annotations

import os
import threading
from collections import Counter
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.support.clients import code_of
from tests.support.harness import Harness
from tests.support.key_import import (
    add_material,
    current_id,
    current_material_id,
    external_key,
    import_again,
    imported_key,
    materials_of,
    parameters,
    state_of,
)
from tests.support.material_ids import imported_ids


def refusal_of(call: Any, **members: Any) -> tuple[str, str]:
    """Code and message of the error."""
    with pytest.raises(ClientError) as refused:
        call(**members)
    error = refused.value.response["Error"]
    return error["Code"], error["Message"]


class Rotated:
    """A key with two materials, `old` and `new`, and a blob of each."""

    def __init__(self, kms: Any) -> None:
        self.kms = kms
        self.old, self.new = os.urandom(32), os.urandom(32)
        self.key_id = imported_key(kms, self.old)
        self.old_id, self.old_blob = current_id(kms, self.key_id), self.seal()
        self.new_id = add_material(kms, self.key_id, self.new)
        kms.rotate_key_on_demand(KeyId=self.key_id)
        self.new_blob = self.seal()

    def seal(self) -> bytes:
        """A blob of the current material."""
        return bytes(self.kms.encrypt(KeyId=self.key_id, Plaintext=b"text")["CiphertextBlob"])

    def opened(self) -> list[str]:
        """The materials that open the two blobs."""
        answers = [self.kms.decrypt(CiphertextBlob=blob) for blob in (self.old_blob, self.new_blob)]
        assert [answer["Plaintext"] for answer in answers] == [b"text", b"text"]
        return [answer["KeyMaterialId"] for answer in answers]


# --- importing and rotating -------------------------------------------------------------------------


def test_new_material_waits_for_the_rotation(harness: Harness, kms: Any) -> None:
    """Until then the first one encrypts; afterwards the new one does, and the first still decrypts."""
    key_id = imported_key(kms, os.urandom(32))
    first = current_id(kms, key_id)
    before = kms.describe_key(KeyId=key_id)["KeyMetadata"]
    second = add_material(kms, key_id, os.urandom(32), KeyMaterialDescription="of 2026")
    assert kms.describe_key(KeyId=key_id)["KeyMetadata"] == before
    made = kms.generate_data_key(KeyId=key_id, KeySpec="AES_256")
    assert made["KeyMaterialId"] == first
    assert materials_of(kms, key_id) == [(first, "CURRENT", "IMPORTED"), (second, "PENDING_ROTATION", "IMPORTED")]
    assert kms.list_key_rotations(KeyId=key_id)["Rotations"] == []
    answer = kms.rotate_key_on_demand(KeyId=key_id)
    assert answer["KeyId"] == before["Arn"]
    assert kms.describe_key(KeyId=key_id)["KeyMetadata"] == {**before, "CurrentKeyMaterialId": second}
    assert kms.generate_data_key(KeyId=key_id, KeySpec="AES_256")["KeyMaterialId"] == second
    opened = kms.decrypt(CiphertextBlob=made["CiphertextBlob"])
    assert (opened["Plaintext"], opened["KeyMaterialId"]) == (made["Plaintext"], first)
    assert materials_of(kms, key_id) == [(first, "NON_CURRENT", "IMPORTED"), (second, "CURRENT", "IMPORTED")]
    assert code_of(kms.enable_key_rotation, KeyId=key_id) == "UnsupportedOperationException"
    (rotation,) = kms.list_key_rotations(KeyId=key_id)["Rotations"]
    assert abs((rotation.pop("RotationDate") - harness.clock.now()).total_seconds()) < 60
    assert rotation == {
        "KeyId": before["Arn"],
        "KeyMaterialId": second,
        "KeyMaterialDescription": "of 2026",
        "KeyMaterialState": "CURRENT",
        "ImportState": "IMPORTED",
        "ExpirationModel": "KEY_MATERIAL_DOES_NOT_EXPIRE",
        "RotationType": "ON_DEMAND",
    }


def test_all_materials_are_listed_in_pages(kms: Any) -> None:
    """Oldest first, the pending one last; a reimport changes no position."""
    materials = [os.urandom(32) for _ in range(4)]
    key_id = imported_key(kms, materials[0])
    ids = [current_id(kms, key_id)]
    for number, material in enumerate(materials[1:]):
        if number:
            kms.rotate_key_on_demand(KeyId=key_id)
        ids.append(add_material(kms, key_id, material))
    kms.delete_imported_key_material(KeyId=key_id, KeyMaterialId=ids[1])
    import_again(kms, key_id, materials[1])
    pages = kms.get_paginator("list_key_rotations").paginate(
        KeyId=key_id, IncludeKeyMaterial="ALL_KEY_MATERIAL", PaginationConfig={"PageSize": 1}
    )
    shown = [one for page in pages for one in page["Rotations"]]
    assert [one["KeyMaterialId"] for one in shown] == ids
    states = [one["KeyMaterialState"] for one in shown]
    assert states == ["NON_CURRENT", "NON_CURRENT", "CURRENT", "PENDING_ROTATION"]
    assert ["RotationDate" in one for one in shown] == [False, True, True, False]
    assert [one["KeyMaterialId"] for one in kms.list_key_rotations(KeyId=key_id)["Rotations"]] == ids[1:3]


def test_one_material_is_pending_at_a_time(kms: Any) -> None:
    """Another is refused before it is unwrapped; the pending one may be imported again, not as new."""
    key_id, waiting = imported_key(kms, os.urandom(32)), os.urandom(32)
    pending = add_material(kms, key_id, waiting)
    given = parameters(kms, key_id)
    for members in (given.new_members(os.urandom(32)), given.new_members(waiting)):
        code, message = refusal_of(kms.import_key_material, **members)
        assert code == "KMSInvalidStateException"
        assert message.endswith(f"because another key material (id: {pending}) is pending rotation.")
    for named in ({}, {"KeyMaterialId": pending}, {"ImportType": "EXISTING_KEY_MATERIAL"}):
        assert import_again(kms, key_id, waiting, KeyMaterialDescription="waits", **named) == pending
    shown = kms.list_key_rotations(KeyId=key_id, IncludeKeyMaterial="ALL_KEY_MATERIAL")["Rotations"]
    assert [one.get("KeyMaterialDescription") for one in shown] == [None, "waits"]


def test_what_the_key_has_is_not_new(kms: Any) -> None:
    """Current or earlier, imported or deleted; nor is what it does not have an existing one, or another's id."""
    key = Rotated(kms)
    other = os.urandom(32)
    for deleted in (False, True):
        if deleted:
            kms.delete_imported_key_material(KeyId=key.key_id, KeyMaterialId=key.old_id)
        given = parameters(kms, key.key_id)
        for material in (key.old, key.new):
            code, message = refusal_of(kms.import_key_material, **given.new_members(material))
            assert (code, "already" in message) == ("IncorrectKeyMaterialException", True)
        for wrong in (
            given.members(other),
            {**given.members(key.old), "KeyMaterialId": key.new_id},
            {**given.members(key.new), "KeyMaterialId": key.old_id},
            {**given.members(key.new), "KeyMaterialId": "0" * 64},
        ):
            assert code_of(kms.import_key_material, **wrong) == "IncorrectKeyMaterialException"
    assert materials_of(kms, key.key_id) == [
        (key.old_id, "NON_CURRENT", "PENDING_IMPORT"),
        (key.new_id, "CURRENT", "IMPORTED"),
    ]


def test_a_rotation_needs_pending_material(harness: Harness, kms: Any) -> None:
    """That the token holds; and a key that is enabled. A refusal changes nothing."""
    key_id = external_key(kms)
    code, message = refusal_of(kms.rotate_key_on_demand, KeyId=key_id)
    assert (code, message.endswith("is pending import.")) == ("KMSInvalidStateException", True)
    material = os.urandom(32)
    kms.import_key_material(**parameters(kms, key_id).members(material))
    arn = kms.describe_key(KeyId=key_id)["KeyMetadata"]["Arn"]
    none = ("KMSInvalidStateException", f"No available key material pending rotation for the key: {arn}.")
    assert refusal_of(kms.rotate_key_on_demand, KeyId=key_id) == none
    pending = add_material(kms, key_id, os.urandom(32))
    kms.disable_key(KeyId=key_id)
    assert code_of(kms.rotate_key_on_demand, KeyId=key_id) == "DisabledException"
    kms.enable_key(KeyId=key_id)
    kms.delete_imported_key_material(KeyId=key_id)
    assert refusal_of(kms.rotate_key_on_demand, KeyId=key_id)[1] == f"{arn} is pending import."
    import_again(kms, key_id, material)
    kms.delete_imported_key_material(KeyId=key_id, KeyMaterialId=pending)
    before = imported_ids(harness)
    assert refusal_of(kms.rotate_key_on_demand, KeyId=key_id) == none
    assert materials_of(kms, key_id)[1] == (pending, "PENDING_ROTATION", "PENDING_IMPORT")
    assert imported_ids(harness) == before


def test_rotations_are_counted(kms: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each, whether or not its material is still there."""
    monkeypatch.setattr("kmsd.operations.kms.rotate_key_on_demand.MAX_ON_DEMAND", 2)
    key_id, materials = external_key(kms), [os.urandom(32) for _ in range(4)]
    import_again(kms, key_id, materials[0])
    for material in materials[1:3]:
        name = add_material(kms, key_id, material)
        kms.rotate_key_on_demand(KeyId=key_id)
    kms.delete_imported_key_material(KeyId=key_id, KeyMaterialId=name)
    import_again(kms, key_id, materials[2])
    add_material(kms, key_id, materials[3])
    assert code_of(kms.rotate_key_on_demand, KeyId=key_id) == "LimitExceededException"


def test_new_material_does_not_enable_a_key(kms: Any) -> None:
    """A disabled one stays disabled; one that lacks a material stays pending import."""
    key_id, first = external_key(kms), os.urandom(32)
    import_again(kms, key_id, first)
    kms.disable_key(KeyId=key_id)
    pending = add_material(kms, key_id, os.urandom(32))
    assert state_of(kms, key_id) == "Disabled"
    kms.delete_imported_key_material(KeyId=key_id, KeyMaterialId=pending)
    assert state_of(kms, key_id) == "Disabled"
    kms.delete_imported_key_material(KeyId=key_id)
    pending = add_material(kms, key_id, os.urandom(32))
    assert state_of(kms, key_id) == "PendingImport"
    import_again(kms, key_id, first)
    assert state_of(kms, key_id) == "Enabled"
    kms.rotate_key_on_demand(KeyId=key_id)
    assert current_id(kms, key_id) == pending


# --- deleting ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("lost", ["old", "new", "both"])
def test_a_key_needs_all_its_materials(harness: Harness, kms: Any, lost: str) -> None:
    """Without one of them it is pending import, and opens nothing; it works again when it has all."""
    key = Rotated(kms)
    gone = {"old": ["old"], "new": ["new"], "both": ["old", "new"]}[lost]
    for name in gone:
        material_id = getattr(key, f"{name}_id")
        answer = kms.delete_imported_key_material(KeyId=key.key_id, KeyMaterialId=material_id)
        assert answer["KeyMaterialId"] == material_id
        assert state_of(kms, key.key_id) == "PendingImport"
    metadata = kms.describe_key(KeyId=key.key_id)["KeyMetadata"]
    assert metadata["CurrentKeyMaterialId"] == key.new_id
    assert "ExpirationModel" not in metadata
    for blob in (key.old_blob, key.new_blob):
        assert code_of(kms.decrypt, CiphertextBlob=blob) == "KMSInvalidStateException"
    assert code_of(kms.encrypt, KeyId=key.key_id, Plaintext=b"x") == "KMSInvalidStateException"
    for name in gone:
        assert state_of(kms, key.key_id) == "PendingImport"
        assert import_again(kms, key.key_id, getattr(key, name)) == getattr(key, f"{name}_id")
    assert state_of(kms, key.key_id) == "Enabled"
    assert key.opened() == [key.old_id, key.new_id]
    assert current_id(kms, key.key_id) == key.new_id


def test_without_an_id_the_current_material_is_deleted(harness: Harness, kms: Any) -> None:
    """Again, it has no effect; the others stay."""
    key = Rotated(kms)
    pending = add_material(kms, key.key_id, os.urandom(32))
    object_id = current_material_id(harness, key.key_id)
    before = imported_ids(harness)
    for _ in range(2):
        assert kms.delete_imported_key_material(KeyId=key.key_id)["KeyMaterialId"] == key.new_id
        assert imported_ids(harness) == before - {object_id}
    assert materials_of(kms, key.key_id) == [
        (key.old_id, "NON_CURRENT", "IMPORTED"),
        (key.new_id, "CURRENT", "PENDING_IMPORT"),
        (pending, "PENDING_ROTATION", "IMPORTED"),
    ]


def test_pending_material_makes_room(harness: Harness, kms: Any) -> None:
    """Deleted, it changes nothing else, and comes back by its id or as new; other material takes its place for good."""
    key_id, waiting = imported_key(kms, os.urandom(32)), os.urandom(32)
    before, first = imported_ids(harness), current_id(kms, key_id)
    pending = add_material(kms, key_id, waiting)
    for again in ("EXISTING_KEY_MATERIAL", "NEW_KEY_MATERIAL"):
        for _ in range(2):
            kms.delete_imported_key_material(KeyId=key_id, KeyMaterialId=pending)
        assert (state_of(kms, key_id), imported_ids(harness)) == ("Enabled", before)
        assert materials_of(kms, key_id)[1] == (pending, "PENDING_ROTATION", "PENDING_IMPORT")
        assert import_again(kms, key_id, waiting, ImportType=again) == pending
    kms.delete_imported_key_material(KeyId=key_id, KeyMaterialId=pending)
    other = add_material(kms, key_id, os.urandom(32))
    assert materials_of(kms, key_id) == [(first, "CURRENT", "IMPORTED"), (other, "PENDING_ROTATION", "IMPORTED")]
    given = parameters(kms, key_id).members(waiting)
    assert code_of(kms.import_key_material, **given) == "IncorrectKeyMaterialException"
    assert code_of(kms.delete_imported_key_material, KeyId=key_id, KeyMaterialId=pending) == "NotFoundException"


def test_pending_deletion(harness: Harness, kms: Any) -> None:
    """Deletions of material leave that state; cancelled, the key awaits what it lacks; at the date all objects go."""
    others = imported_ids(harness)
    key = Rotated(kms)
    before = imported_ids(harness)
    pending = add_material(kms, key.key_id, os.urandom(32))
    kms.schedule_key_deletion(KeyId=key.key_id, PendingWindowInDays=7)
    kms.delete_imported_key_material(KeyId=key.key_id, KeyMaterialId=pending)
    assert (state_of(kms, key.key_id), imported_ids(harness)) == ("PendingDeletion", before)
    kms.cancel_key_deletion(KeyId=key.key_id)
    assert state_of(kms, key.key_id) == "Disabled"
    kms.schedule_key_deletion(KeyId=key.key_id, PendingWindowInDays=7)
    kms.delete_imported_key_material(KeyId=key.key_id, KeyMaterialId=key.old_id)
    assert state_of(kms, key.key_id) == "PendingDeletion"
    kms.cancel_key_deletion(KeyId=key.key_id)
    assert state_of(kms, key.key_id) == "PendingImport"
    import_again(kms, key.key_id, key.old)
    add_material(kms, key.key_id, os.urandom(32))
    kms.schedule_key_deletion(KeyId=key.key_id, PendingWindowInDays=7)
    harness.clock.advance(days=7, seconds=1)
    harness.tick()
    assert imported_ids(harness) == others
    assert code_of(kms.describe_key, KeyId=key.key_id) == "NotFoundException"


# --- at once, and in the trail ----------------------------------------------------------------------


def at_once(harness: Harness, acts: list[tuple[str, dict[str, Any]]]) -> list[str]:
    """Make these calls at the same instant; the error codes, empty for a success."""
    answers: list[str] = []
    gate = threading.Barrier(len(acts))

    def act(operation: str, members: dict[str, Any]) -> None:
        client = harness.client()
        gate.wait()
        answers.append(code_of(getattr(client, operation), **members))

    threads = [threading.Thread(target=act, args=one) for one in acts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


def test_new_materials_at_once(harness: Harness, kms: Any) -> None:
    """One of them is pending, the others are refused, and leave nothing in the token."""
    key_id = imported_key(kms, os.urandom(32))
    given = [parameters(kms, key_id).new_members(os.urandom(32)) for _ in range(6)]
    before = imported_ids(harness)
    answers = at_once(harness, [("import_key_material", members) for members in given])
    assert Counter(answers) == {"": 1, "KMSInvalidStateException": 5}
    assert len(imported_ids(harness) - before) == 1
    answers = at_once(harness, [("rotate_key_on_demand", {"KeyId": key_id})] * 6)
    assert Counter(answers) == {"": 1, "KMSInvalidStateException": 5}


def test_everything_at_once(harness: Harness, kms: Any) -> None:
    """Rotations, deletions and imports of one material: each is done or refused, and the key is whole afterwards."""
    key_id, waiting = imported_key(kms, os.urandom(32)), os.urandom(32)
    blob = kms.encrypt(KeyId=key_id, Plaintext=b"text")["CiphertextBlob"]
    before, first = imported_ids(harness), current_id(kms, key_id)
    pending = add_material(kms, key_id, waiting)
    given = parameters(kms, key_id)
    acts: list[tuple[str, dict[str, Any]]] = [
        ("rotate_key_on_demand", {"KeyId": key_id}),
        ("delete_imported_key_material", {"KeyId": key_id, "KeyMaterialId": pending}),
        ("import_key_material", given.members(waiting)),
        ("import_key_material", given.new_members(os.urandom(32))),
    ]
    answers = at_once(harness, acts * 3)
    refusals = {
        *("KMSInvalidStateException", "IncorrectKeyMaterialException", "NotFoundException", "ThrottlingException")
    }
    assert {answer for answer in answers if answer} <= refusals
    listed = materials_of(kms, key_id)
    held = [state for _, _, state in listed].count("IMPORTED")
    assert len(imported_ids(harness) - before) == held - 1
    current = [material_id for material_id, state, _ in listed if state == "CURRENT"]
    assert current == [current_id(kms, key_id)]
    lacking = [material_id for material_id, state, has in listed if (has, state[:3]) == ("PENDING_IMPORT", "CUR")]
    assert state_of(kms, key_id) == ("PendingImport" if lacking else "Enabled")
    assert lacking in ([], [pending])
    for _ in lacking:
        import_again(kms, key_id, waiting)
    opened = kms.decrypt(CiphertextBlob=blob)
    assert (opened["Plaintext"], opened["KeyMaterialId"]) == (b"text", first)


def test_records_name_the_material(harness: Harness, kms: Any) -> None:
    """By its id, with import type and description."""
    key_id, material = external_key(kms), os.urandom(32)
    import_again(kms, key_id, material)
    members = {"ImportType": "NEW_KEY_MATERIAL", "KeyMaterialDescription": "of 2026"}
    pending = import_again(kms, key_id, os.urandom(32), **members)
    kms.rotate_key_on_demand(KeyId=key_id)
    kms.delete_imported_key_material(KeyId=key_id, KeyMaterialId=pending)
    shown = {
        record["eventName"]: (record["requestParameters"], record["responseElements"])
        for record in harness.records()
        if (record.get("requestParameters") or {}).get("keyId", "").endswith(key_id)
    }
    asked, answered = shown["ImportKeyMaterial"]
    assert (asked["importType"], asked["keyMaterialDescription"]) == ("NEW_KEY_MATERIAL", "of 2026")
    assert answered["keyMaterialId"] == pending
    assert not {"importToken", "encryptedKeyMaterial"} & {*asked, *answered}
    assert shown["DeleteImportedKeyMaterial"][0]["keyMaterialId"] == pending
    assert shown["RotateKeyOnDemand"][0]["keyId"].endswith(key_id)
