"""Import over the wire with boto3: the workflow by every algorithm, what is the same, what expires."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.support.clients import code_of
from tests.support.harness import Harness
from tests.support.key_import import (
    ALGORITHMS,
    SPECS,
    current_material,
    current_material_id,
    external_key,
    imported_key,
    imported_material,
    parameters,
    state_of,
)
from tests.support.material_ids import held_ids

# --- the workflow -----------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_by_every_algorithm_and_back_again(harness: Harness, kms: Any, algorithm: str) -> None:
    """Import, use, delete, import again: old blobs open; the object is sensitive and cannot be had out."""
    material, key_id = os.urandom(32), external_key(kms)
    given = parameters(kms, key_id, algorithm)
    answer = kms.import_key_material(**given.members(material))
    assert answer["KeyId"].endswith(key_id)
    metadata = kms.describe_key(KeyId=key_id)["KeyMetadata"]
    assert (metadata["KeyState"], metadata["Enabled"]) == ("Enabled", True)
    assert metadata["ExpirationModel"] == "KEY_MATERIAL_DOES_NOT_EXPIRE"
    assert metadata["CurrentKeyMaterialId"] == answer["KeyMaterialId"]
    assert "ValidTo" not in metadata
    blob = kms.encrypt(KeyId=key_id, Plaintext=b"mine", EncryptionContext={"a": "b"})["CiphertextBlob"]
    used = current_material(harness, key_id)
    shown = harness.run(harness.components.token.attributes(used.reference))
    assert (shown["CKA_SENSITIVE"], shown["CKA_EXTRACTABLE"], shown["CKA_MODIFIABLE"]) == (True, False, False)
    assert [role for role in ("ENCRYPT", "DECRYPT", "SIGN", "WRAP", "UNWRAP", "DERIVE") if shown[f"CKA_{role}"]] == [
        "DERIVE"
    ]
    deleted = kms.delete_imported_key_material(KeyId=key_id)
    assert deleted["KeyMaterialId"] == answer["KeyMaterialId"]
    assert state_of(kms, key_id) == "PendingImport"
    assert used.material_id not in held_ids(harness)
    assert code_of(kms.decrypt, CiphertextBlob=blob, EncryptionContext={"a": "b"}) == "KMSInvalidStateException"
    again = kms.import_key_material(**parameters(kms, key_id, algorithm).members(material))
    assert again["KeyMaterialId"] == answer["KeyMaterialId"]
    opened = kms.decrypt(CiphertextBlob=blob, EncryptionContext={"a": "b"})
    assert opened["Plaintext"] == b"mine"
    assert current_material_id(harness, key_id) == used.material_id


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("algorithm", ["RSAES_OAEP_SHA_1", "RSAES_OAEP_SHA_256"])
def test_by_every_length_of_wrapping_key(kms: Any, spec: str, algorithm: str) -> None:
    """In either token."""
    key_id = external_key(kms)
    given = parameters(kms, key_id, algorithm, spec)
    kms.import_key_material(**given.members(os.urandom(32)))
    assert state_of(kms, key_id) == "Enabled"


def test_parameters_are_as_the_reference_says(harness: Harness, kms: Any) -> None:
    """Valid for 24 hours, from now, to the second; several at once; each with a wrapping key of its own."""
    key_id = external_key(kms)
    begun = harness.clock.now()
    several = [parameters(kms, key_id) for _ in range(3)]
    ended = harness.clock.now()
    assert len({given.public_key for given in several}) == 3
    for given in several:
        valid_from = given.answer["ParametersValidTo"] - timedelta(hours=24)
        assert begun - timedelta(seconds=1) < valid_from <= ended
        assert given.answer["KeyId"].endswith(key_id)
    material = os.urandom(32)
    for given in reversed(several):
        kms.import_key_material(**given.members(material))
    # "These items are valid for 24 hours": an import does not use them up.
    kms.import_key_material(**several[0].members(material))


def test_imported_keys_behave_like_generated_ones(harness: Harness, kms: Any) -> None:
    """Data keys, ReEncrypt, grants, and deletion of the key with everything."""
    before = held_ids(harness)
    key_id = imported_key(kms, os.urandom(32))
    other = kms.create_key()["KeyMetadata"]["KeyId"]
    made = kms.generate_data_key(KeyId=key_id, KeySpec="AES_256")
    moved = kms.re_encrypt(CiphertextBlob=made["CiphertextBlob"], DestinationKeyId=other)["CiphertextBlob"]
    assert kms.decrypt(CiphertextBlob=moved)["Plaintext"] == made["Plaintext"]
    user = harness.user()
    kms.create_grant(KeyId=key_id, GranteePrincipal=user.arn, Operations=["Decrypt"])
    opened = harness.client(credentials=user).decrypt(CiphertextBlob=made["CiphertextBlob"])
    assert opened["Plaintext"] == made["Plaintext"]
    assert code_of(kms.enable_key_rotation, KeyId=key_id) == "UnsupportedOperationException"
    assert code_of(kms.rotate_key_on_demand, KeyId=key_id) == "KMSInvalidStateException"
    for doomed in (key_id, other):
        kms.schedule_key_deletion(KeyId=doomed, PendingWindowInDays=7)
    harness.clock.advance(days=7, seconds=1)
    harness.tick()
    assert held_ids(harness) <= before


# --- the same material, and other -------------------------------------------------------------------


def differing(material: bytes) -> dict[str, bytes]:
    """Material that is not this one."""
    return {
        "one bit": bytes([material[0] ^ 1]) + material[1:],
        "last bit": material[:-1] + bytes([material[-1] ^ 0x80]),
        "other": os.urandom(32),
        "shorter": material[:31],
        "128 bits": material[:16],
        "192 bits": material[:24],
        "longer": material + b"\0",
        "twice": material * 2,
        "one byte": material[:1],
    }


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_other_material_is_refused(harness: Harness, kms: Any, algorithm: str) -> None:
    """Into a key that has material, that lost it, and that never had any; nothing changes by it."""
    material = os.urandom(32)
    present, absent, fresh = imported_key(kms, material), imported_key(kms, material), external_key(kms)
    kms.delete_imported_key_material(KeyId=absent)
    for key_id in (present, absent, fresh):
        given = parameters(kms, key_id, algorithm)
        before, state = held_ids(harness), kms.describe_key(KeyId=key_id)["KeyMetadata"]
        for name, other in differing(material).items():
            if len(other) == 32 and key_id == fresh:
                continue
            told = code_of(kms.import_key_material, **given.members(other))
            # What has no integrity does not tell a wrong length from bad padding.
            hidden = algorithm == "RSAES_PKCS1_V1_5" and len(other) != 32
            assert told == ("InvalidCiphertextException" if hidden else "IncorrectKeyMaterialException"), name
        assert held_ids(harness) == before
        assert kms.describe_key(KeyId=key_id)["KeyMetadata"] == state


def test_the_same_material_in_two_keys_is_no_secret_told(harness: Harness, kms: Any) -> None:
    """Their fingerprints, material ids and blobs differ."""
    material = os.urandom(32)
    kept = []
    for _ in range(2):
        key_id = imported_key(kms, material)
        imported = harness.run(imported_material(harness, key_id))
        kept.append((imported.fingerprint, imported.material_id))
    assert kept[0][0] != kept[1][0]
    assert kept[0][1] != kept[1][1]


def test_sameness_survives_expiry(harness: Harness, kms: Any) -> None:
    """After ValidTo, with and without the job having run, only the same material comes back."""
    material, key_id = os.urandom(32), external_key(kms)
    for job_runs in (False, True):
        valid_to = harness.clock.now() + timedelta(days=1)
        members = {"ExpirationModel": "KEY_MATERIAL_EXPIRES", "ValidTo": valid_to}
        kms.import_key_material(**{**parameters(kms, key_id).members(material), **members})
        blob = kms.encrypt(KeyId=key_id, Plaintext=b"x")["CiphertextBlob"]
        object_id = current_material_id(harness, key_id)
        harness.clock.advance(days=1)
        if job_runs:
            harness.tick()
            assert object_id not in held_ids(harness)
        assert state_of(kms, key_id) == "PendingImport"
        given = parameters(kms, key_id)
        assert code_of(kms.import_key_material, **given.members(os.urandom(32))) == "IncorrectKeyMaterialException"
        kms.import_key_material(**given.members(material))
        assert kms.decrypt(CiphertextBlob=blob)["Plaintext"] == b"x"


# --- when it ends -----------------------------------------------------------------------------------


def test_valid_to_is_exact_and_can_be_changed(harness: Harness, kms: Any) -> None:
    """Usable until the instant, and not at it; importing the same again sets it anew, longer, shorter or to none."""
    material, key_id = os.urandom(32), external_key(kms)

    def bring(valid_to: datetime | None) -> None:
        given = parameters(kms, key_id).members(material)
        if valid_to is not None:
            given |= {"ExpirationModel": "KEY_MATERIAL_EXPIRES", "ValidTo": valid_to}
        kms.import_key_material(**given)

    first = harness.clock.now().replace(microsecond=0) + timedelta(hours=2)
    bring(first)
    metadata = kms.describe_key(KeyId=key_id)["KeyMetadata"]
    assert (metadata["ValidTo"], metadata["ExpirationModel"]) == (first.astimezone(UTC), "KEY_MATERIAL_EXPIRES")
    bring(first - timedelta(hours=1))
    harness.clock.advance(minutes=59)
    assert state_of(kms, key_id) == "Enabled"
    harness.clock.advance(minutes=1)
    assert code_of(kms.encrypt, KeyId=key_id, Plaintext=b"x") == "KMSInvalidStateException"
    bring(first + timedelta(hours=1))
    harness.clock.advance(hours=1, minutes=30)
    assert state_of(kms, key_id) == "Enabled"
    bring(None)
    harness.clock.advance(days=1000)
    harness.tick()
    assert state_of(kms, key_id) == "Enabled"
    assert "ValidTo" not in kms.describe_key(KeyId=key_id)["KeyMetadata"]


def test_a_disabled_key_stays_disabled(kms: Any) -> None:
    """Unless it has lost its material: then the import enables it."""
    material = os.urandom(32)
    key_id = imported_key(kms, material)
    kms.disable_key(KeyId=key_id)
    kms.import_key_material(**parameters(kms, key_id).members(material))
    assert state_of(kms, key_id) == "Disabled"
    kms.delete_imported_key_material(KeyId=key_id)
    assert state_of(kms, key_id) == "PendingImport"
    kms.import_key_material(**parameters(kms, key_id).members(material))
    assert state_of(kms, key_id) == "Enabled"


def test_deletion_while_pending_deletion(harness: Harness, kms: Any) -> None:
    """The state stays; once it is cancelled, the key awaits its material."""
    material = os.urandom(32)
    key_id = imported_key(kms, material)
    object_id = current_material_id(harness, key_id)
    given = parameters(kms, key_id)
    kms.schedule_key_deletion(KeyId=key_id, PendingWindowInDays=7)
    assert code_of(kms.import_key_material, **given.members(material)) == "KMSInvalidStateException"
    kms.delete_imported_key_material(KeyId=key_id)
    assert state_of(kms, key_id) == "PendingDeletion"
    assert object_id not in held_ids(harness)
    kms.cancel_key_deletion(KeyId=key_id)
    assert state_of(kms, key_id) == "PendingImport"
    kms.import_key_material(**given.members(material))
    assert state_of(kms, key_id) == "Enabled"


def test_deleting_what_is_not_there_changes_nothing(kms: Any) -> None:
    """No effect, also twice, and by name."""
    key_id = external_key(kms)
    assert "KeyMaterialId" not in kms.delete_imported_key_material(KeyId=key_id)
    material_id = kms.import_key_material(**parameters(kms, key_id).members(os.urandom(32)))["KeyMaterialId"]
    unknown = "0" * 64
    assert code_of(kms.delete_imported_key_material, KeyId=key_id, KeyMaterialId=unknown) == "NotFoundException"
    assert state_of(kms, key_id) == "Enabled"
    for _ in range(2):
        kms.delete_imported_key_material(KeyId=key_id, KeyMaterialId=material_id)
        assert state_of(kms, key_id) == "PendingImport"
