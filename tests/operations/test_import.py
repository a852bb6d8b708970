"""Import over the wire with boto3: the workflow by every algorithm, what is the same, what is refused, what expires."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from botocore.exceptions import ClientError

from kmsd.domain.wrapping import WrappingAlgorithm
from tests.house import House, house
from tests.imports import (
    ALGORITHMS,
    FOREVER,
    SPECS,
    external_key,
    imported_key,
    parameters,
    refusals_at_once,
    state_of,
)

ME = "arn:aws:iam::000000000000:user/admin"


@pytest.fixture(scope="module", name="house")
def _house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """With an import token, as `scripts/run` makes it."""
    with house(tmp_path_factory.mktemp("house"), import_token=True) as found, refusals_at_once():
        yield found


@pytest.fixture(name="kms")
def _kms(house: House) -> Any:
    return house.client()


def code_of(call: Any, **members: Any) -> str:
    """The error name that a call answers with; empty if it works."""
    try:
        call(**members)
    except ClientError as error:
        return str(error.response["Error"]["Code"])
    return ""


def objects(house: House) -> set[bytes]:
    """Ids of everything that both tokens hold."""
    rooms = house.rooms
    assert rooms.import_token is not None
    found = [*house.run(rooms.token.list_objects()), *house.run(rooms.import_token.list_objects())]
    assert [report for report in found if report.problem] == []
    return {report.object_id for report in found}


def material_object(house: House, key_id: str) -> bytes:
    """The material's object id."""
    key = house.run(_key(house, key_id))
    assert key is not None
    assert key.current_material is not None
    return bytes(key.current_material.material_id)


async def _key(house: House, key_id: str) -> Any:
    return await (await house.rooms.store.read()).key(key_id)


# --- the workflow -----------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_by_every_algorithm_and_back_again(house: House, kms: Any, algorithm: str) -> None:
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
    object_id = material_object(house, key_id)
    shown = house.run(house.rooms.token.attributes(object_id))
    assert (shown["CKA_SENSITIVE"], shown["CKA_EXTRACTABLE"], shown["CKA_MODIFIABLE"]) == (True, False, False)
    assert [role for role in ("ENCRYPT", "DECRYPT", "SIGN", "WRAP", "UNWRAP", "DERIVE") if shown[f"CKA_{role}"]] == [
        "DERIVE"
    ]
    deleted = kms.delete_imported_key_material(KeyId=key_id)
    assert deleted["KeyMaterialId"] == answer["KeyMaterialId"]
    assert state_of(kms, key_id) == "PendingImport"
    assert object_id not in objects(house)
    assert code_of(kms.decrypt, CiphertextBlob=blob, EncryptionContext={"a": "b"}) == "KMSInvalidStateException"
    again = kms.import_key_material(**parameters(kms, key_id, algorithm).members(material))
    assert again["KeyMaterialId"] == answer["KeyMaterialId"]
    opened = kms.decrypt(CiphertextBlob=blob, EncryptionContext={"a": "b"})
    assert opened["Plaintext"] == b"mine"
    assert material_object(house, key_id) == object_id


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("algorithm", ["RSAES_OAEP_SHA_1", "RSAES_OAEP_SHA_256"])
def test_by_every_length_of_wrapping_key(kms: Any, spec: str, algorithm: str) -> None:
    """In either token."""
    key_id = external_key(kms)
    given = parameters(kms, key_id, algorithm, spec)
    kms.import_key_material(**given.members(os.urandom(32)))
    assert state_of(kms, key_id) == "Enabled"


def test_parameters_are_as_the_reference_says(house: House, kms: Any) -> None:
    """Valid for 24 hours, from now, to the second; several at once; each with a wrapping key of its own."""
    key_id = external_key(kms)
    several = [parameters(kms, key_id) for _ in range(3)]
    assert len({given.public_key for given in several}) == 3
    for given in several:
        left = given.answer["ParametersValidTo"] - house.clock.now()
        assert timedelta(hours=24) - timedelta(seconds=10) < left <= timedelta(hours=24)
        assert given.answer["KeyId"].endswith(key_id)
    material = os.urandom(32)
    for given in reversed(several):
        kms.import_key_material(**given.members(material))
    # "These items are valid for 24 hours": an import does not use them up.
    kms.import_key_material(**several[0].members(material))


def test_imported_keys_behave_like_generated_ones(house: House, kms: Any) -> None:
    """Data keys, ReEncrypt, grants, and deletion of the key with everything."""
    before = objects(house)
    key_id = imported_key(kms, os.urandom(32))
    other = kms.create_key()["KeyMetadata"]["KeyId"]
    made = kms.generate_data_key(KeyId=key_id, KeySpec="AES_256")
    moved = kms.re_encrypt(CiphertextBlob=made["CiphertextBlob"], DestinationKeyId=other)["CiphertextBlob"]
    assert kms.decrypt(CiphertextBlob=moved)["Plaintext"] == made["Plaintext"]
    user = house.user()
    kms.create_grant(KeyId=key_id, GranteePrincipal=user.arn, Operations=["Decrypt"])
    opened = house.client(credentials=user).decrypt(CiphertextBlob=made["CiphertextBlob"])
    assert opened["Plaintext"] == made["Plaintext"]
    assert code_of(kms.enable_key_rotation, KeyId=key_id) == "UnsupportedOperationException"
    assert code_of(kms.rotate_key_on_demand, KeyId=key_id) == "UnsupportedOperationException"
    for doomed in (key_id, other):
        kms.schedule_key_deletion(KeyId=doomed, PendingWindowInDays=7)
    house.clock.advance(days=7, seconds=1)
    house.tick()
    assert objects(house) <= before


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
def test_other_material_is_refused(house: House, kms: Any, algorithm: str) -> None:
    """Into a key that has material, that lost it, and that never had any; nothing changes by it."""
    material = os.urandom(32)
    present, absent, fresh = imported_key(kms, material), imported_key(kms, material), external_key(kms)
    kms.delete_imported_key_material(KeyId=absent)
    for key_id in (present, absent, fresh):
        given = parameters(kms, key_id, algorithm)
        before, state = objects(house), kms.describe_key(KeyId=key_id)["KeyMetadata"]
        for name, other in differing(material).items():
            if len(other) == 32 and key_id == fresh:
                continue
            told = code_of(kms.import_key_material, **given.members(other))
            # What has no integrity does not tell a wrong length from bad padding.
            hidden = algorithm == "RSAES_PKCS1_V1_5" and len(other) != 32
            assert told == ("InvalidCiphertextException" if hidden else "IncorrectKeyMaterialException"), name
        assert objects(house) == before
        assert kms.describe_key(KeyId=key_id)["KeyMetadata"] == state


def test_the_same_material_in_two_keys_is_no_secret_told(house: House, kms: Any) -> None:
    """Their fingerprints, material ids and blobs differ."""
    material = os.urandom(32)
    kept = []
    for _ in range(2):
        key_id = imported_key(kms, material)
        imported = house.run(_imported(house, key_id))
        kept.append((imported.fingerprint, imported.material_id))
    assert kept[0][0] != kept[1][0]
    assert kept[0][1] != kept[1][1]


async def _imported(house: House, key_id: str) -> Any:
    return await (await house.rooms.store.read()).imported_material(key_id)


def test_sameness_survives_expiry(house: House, kms: Any) -> None:
    """After ValidTo, with and without the job having run, only the same material comes back."""
    material, key_id = os.urandom(32), external_key(kms)
    for job_runs in (False, True):
        valid_to = house.clock.now() + timedelta(days=1)
        members = {"ExpirationModel": "KEY_MATERIAL_EXPIRES", "ValidTo": valid_to}
        kms.import_key_material(**{**parameters(kms, key_id).members(material), **members})
        blob = kms.encrypt(KeyId=key_id, Plaintext=b"x")["CiphertextBlob"]
        object_id = material_object(house, key_id)
        house.clock.advance(days=1)
        if job_runs:
            house.tick()
            assert object_id not in objects(house)
        assert state_of(kms, key_id) == "PendingImport"
        given = parameters(kms, key_id)
        assert code_of(kms.import_key_material, **given.members(os.urandom(32))) == "IncorrectKeyMaterialException"
        kms.import_key_material(**given.members(material))
        assert kms.decrypt(CiphertextBlob=blob)["Plaintext"] == b"x"


# --- when it ends -----------------------------------------------------------------------------------


def test_valid_to_is_exact_and_can_be_changed(house: House, kms: Any) -> None:
    """Usable until the instant, and not at it; importing the same again sets it anew, longer, shorter or to none."""
    material, key_id = os.urandom(32), external_key(kms)

    def bring(valid_to: datetime | None) -> None:
        given = parameters(kms, key_id).members(material)
        if valid_to is not None:
            given |= {"ExpirationModel": "KEY_MATERIAL_EXPIRES", "ValidTo": valid_to}
        kms.import_key_material(**given)

    first = house.clock.now().replace(microsecond=0) + timedelta(hours=2)
    bring(first)
    metadata = kms.describe_key(KeyId=key_id)["KeyMetadata"]
    assert (metadata["ValidTo"], metadata["ExpirationModel"]) == (first.astimezone(UTC), "KEY_MATERIAL_EXPIRES")
    bring(first - timedelta(hours=1))
    house.clock.advance(minutes=59)
    assert state_of(kms, key_id) == "Enabled"
    house.clock.advance(minutes=1)
    assert code_of(kms.encrypt, KeyId=key_id, Plaintext=b"x") == "KMSInvalidStateException"
    bring(first + timedelta(hours=1))
    house.clock.advance(hours=1, minutes=30)
    assert state_of(kms, key_id) == "Enabled"
    bring(None)
    house.clock.advance(days=1000)
    house.tick()
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


def test_deletion_while_pending_deletion(house: House, kms: Any) -> None:
    """The state stays; once it is cancelled, the key awaits its material."""
    material = os.urandom(32)
    key_id = imported_key(kms, material)
    object_id = material_object(house, key_id)
    given = parameters(kms, key_id)
    kms.schedule_key_deletion(KeyId=key_id, PendingWindowInDays=7)
    assert code_of(kms.import_key_material, **given.members(material)) == "KMSInvalidStateException"
    kms.delete_imported_key_material(KeyId=key_id)
    assert state_of(kms, key_id) == "PendingDeletion"
    assert object_id not in objects(house)
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


# --- import tokens ----------------------------------------------------------------------------------


def test_import_tokens_are_bound(house: House, kms: Any) -> None:
    """To the key; every changed byte is noticed; they do not stand for one another."""
    mine, other, material = external_key(kms), external_key(kms), os.urandom(32)
    given = parameters(kms, mine)
    members = given.members(material)
    assert code_of(kms.import_key_material, **{**members, "KeyId": other}) == "InvalidImportTokenException"
    token = members["ImportToken"]
    for position in range(len(token)):
        changed = token[:position] + bytes([token[position] ^ 1]) + token[position + 1 :]
        told = code_of(kms.import_key_material, **{**members, "ImportToken": changed})
        assert told == "InvalidImportTokenException", position
    for nonsense in (b"x", os.urandom(len(token)), token[:-1], token + b"\0"):
        told = code_of(kms.import_key_material, **{**members, "ImportToken": nonsense})
        assert told == "InvalidImportTokenException"
    # The token of another pair: the blob does not open.
    second = parameters(kms, mine)
    crossed = {**members, "ImportToken": second.answer["ImportToken"]}
    assert code_of(kms.import_key_material, **crossed) == "InvalidCiphertextException"
    # The token of another algorithm, for the same key: neither.
    by_pkcs1 = parameters(kms, mine, "RSAES_PKCS1_V1_5")
    told = code_of(
        kms.import_key_material, **by_pkcs1.members_of(parameters(kms, mine).members(material)["EncryptedKeyMaterial"])
    )
    assert told == "InvalidCiphertextException"
    assert state_of(kms, mine) == state_of(kms, other) == "PendingImport"
    kms.import_key_material(**members)


def test_import_tokens_expire_on_the_instant_and_their_keys_go(house: House, kms: Any) -> None:
    """24 hours, by the clock alone; then the job destroys the wrapping keys, in both tokens."""
    material, key_id = os.urandom(32), external_key(kms)
    before = objects(house)
    given = [parameters(kms, key_id, algorithm) for algorithm in ("RSAES_OAEP_SHA_1", "RSAES_OAEP_SHA_256")]
    wrapping = objects(house) - before
    assert len(wrapping) >= 2
    house.clock.advance(hours=23, minutes=59)
    kms.import_key_material(**given[0].members(material))
    house.clock.advance(minutes=1)
    for each in given:
        assert code_of(kms.import_key_material, **each.members(material)) == "ExpiredImportTokenException"
    house.tick()
    assert not wrapping & objects(house)
    assert code_of(kms.import_key_material, **given[0].members(material)) == "ExpiredImportTokenException"
    # A clock that is set back revives nothing.
    house.clock.advance(hours=-2)
    assert code_of(kms.import_key_material, **given[0].members(material)) == "InvalidImportTokenException"
    house.clock.advance(hours=2)


@pytest.mark.parametrize("algorithm", ["RSAES_PKCS1_V1_5", "RSAES_OAEP_SHA_256"])
def test_twenty_failures_end_an_import_token(house: House, kms: Any, algorithm: str) -> None:
    """And with it its wrapping key, in the token; others of the key go on."""
    material, key_id = os.urandom(32), external_key(kms)
    spare = parameters(kms, key_id, algorithm)
    before = objects(house)
    given = parameters(kms, key_id, algorithm)
    wrapping = objects(house) - before
    for _ in range(19):
        garbage = given.members_of(b"\0" + os.urandom(255))
        assert code_of(kms.import_key_material, **garbage) == "InvalidCiphertextException"
    kms.import_key_material(**given.members(material))
    kms.delete_imported_key_material(KeyId=key_id)
    assert code_of(kms.import_key_material, **garbage) == "InvalidCiphertextException"
    assert code_of(kms.import_key_material, **given.members(material)) == "InvalidImportTokenException"
    assert wrapping == set() or not wrapping & objects(house)
    kms.import_key_material(**spare.members(material))


def test_failures_at_the_same_time_are_not_told_beyond_the_twentieth(house: House, kms: Any) -> None:
    """Whatever runs at once: at most 20 answers say what happened to a blob."""
    key_id = external_key(kms)
    given = parameters(kms, key_id)

    def garbage(_: int) -> str:
        return code_of(kms.import_key_material, **given.members_of(b"\0" + os.urandom(255)))

    with ThreadPoolExecutor(8) as threads:
        told = Counter(threads.map(garbage, range(40)))
    assert told == {"InvalidCiphertextException": 20, "InvalidImportTokenException": 20}
    assert code_of(kms.import_key_material, **given.members(b"k" * 32)) == "InvalidImportTokenException"


def test_a_wrapping_key_that_the_token_lost(house: House, kms: Any) -> None:
    """The import token is no longer of use; that is no failed import of the client's."""
    key_id = external_key(kms)
    before = objects(house)
    given = parameters(kms, key_id)
    for object_id in objects(house) - before or {key.object_id for key in house.run(_given(house, key_id))}:
        house.run(house.rooms.token.destroy(object_id))
    assert code_of(kms.import_key_material, **given.members(b"k" * 32)) == "InvalidImportTokenException"
    house.clock.advance(hours=24)
    house.tick()


async def _given(house: House, key_id: str) -> Any:
    return [key for key in await (await house.rooms.store.read()).wrapping_keys() if key.key_id == key_id]


def test_first_imports_at_the_same_time(house: House, kms: Any) -> None:
    """One material becomes the key's; the others are refused so that they can be tried again, and leave nothing."""
    key_id = external_key(kms)
    materials = [os.urandom(32) for _ in range(6)]
    requests = [parameters(kms, key_id).members(material) for material in materials]
    before = objects(house)
    with ThreadPoolExecutor(6) as threads:
        told = list(threads.map(lambda members: code_of(kms.import_key_material, **members), requests))
    assert told.count("") == 1
    assert set(told) <= {"", "KMSInternalException", "IncorrectKeyMaterialException"}
    assert objects(house) - before == {material_object(house, key_id)}
    for answer, members in zip(told, requests, strict=True):
        again = code_of(kms.import_key_material, **members)
        assert again == ("IncorrectKeyMaterialException" if answer else "")


def test_algorithms_that_are_refused_or_lacking(house: House, kms: Any) -> None:
    """By name, when parameters are fetched and when they are used."""
    world, key_id = house.rooms.pipeline.world, external_key(kms)
    by_pkcs1 = parameters(kms, key_id, "RSAES_PKCS1_V1_5").members(b"k" * 32)
    through_nss = parameters(kms, key_id, "RSAES_OAEP_SHA_256").members(b"k" * 32)
    bent = {"refused_wrapping": frozenset({WrappingAlgorithm.RSAES_PKCS1_V1_5}), "import_token": None}
    kept = {name: getattr(world, name) for name in bent}
    try:
        for name, value in bent.items():
            object.__setattr__(world, name, value)
        for algorithm, members in (("RSAES_PKCS1_V1_5", by_pkcs1), ("RSAES_OAEP_SHA_256", through_nss)):
            want = {"WrappingAlgorithm": algorithm, "WrappingKeySpec": "RSA_2048"}
            assert code_of(kms.get_parameters_for_import, KeyId=key_id, **want) == "UnsupportedOperationException"
            assert code_of(kms.import_key_material, **members) == "UnsupportedOperationException"
    finally:
        for name, value in kept.items():
            object.__setattr__(world, name, value)
    kms.import_key_material(**through_nss)


def test_wrapping_keys_are_kept_in_stock(house: House, kms: Any) -> None:
    """Of a kind that is in demand, until it no longer is."""
    house.clock.advance(hours=25)
    house.tick()
    resting = objects(house)
    key_id = external_key(kms)
    parameters(kms, key_id, "RSAES_OAEP_SHA_256", "RSA_2048")
    house.tick()
    stocked = objects(house) - resting
    assert len(stocked) == 3
    for _ in range(2):
        given = parameters(kms, key_id, "RSAES_OAEP_SHA_256", "RSA_2048")
        kms.import_key_material(**given.members(b"k" * 32))
    assert len(objects(house) - resting) == 4  # with the material
    house.clock.advance(hours=25)
    house.tick()
    assert objects(house) - resting == {material_object(house, key_id)}


# --- what the request may say -----------------------------------------------------------------------


def test_the_request_is_checked(house: House, kms: Any) -> None:
    """ValidTo and ExpirationModel as AWS has them; the newer members where they have sense."""
    material, key_id = os.urandom(32), external_key(kms)
    members = parameters(kms, key_id).members(material)
    del members["ExpirationModel"]
    tomorrow = house.clock.now() + timedelta(days=1)
    with pytest.raises(ClientError) as refused:
        kms.import_key_material(**members)
    assert refused.value.response["Error"]["Message"] == (
        "A validTo date must be set if the ExpirationModel is KEY_MATERIAL_EXPIRES"
    )
    invalid: list[dict[str, Any]] = [
        {"ValidTo": house.clock.now() - timedelta(seconds=1)},
        {"ValidTo": tomorrow, **FOREVER},
        {**FOREVER, "ImportType": "NEW_KEY_MATERIAL", "KeyMaterialId": "0" * 64},
    ]
    for wrong in invalid:
        assert code_of(kms.import_key_material, **members, **wrong) == "ValidationException", wrong
    for early in ({"ImportType": "EXISTING_KEY_MATERIAL"}, {"KeyMaterialId": "0" * 64}):
        assert code_of(kms.import_key_material, **members, **FOREVER, **early) == "IncorrectKeyMaterialException"
    answer = kms.import_key_material(
        **members, ValidTo=tomorrow, ImportType="NEW_KEY_MATERIAL", KeyMaterialDescription="from the vault"
    )
    assert house.run(_imported(house, key_id)).description == "from the vault"
    members |= FOREVER
    told = code_of(kms.import_key_material, **members, ImportType="NEW_KEY_MATERIAL")
    assert told == "UnsupportedOperationException"
    assert code_of(kms.import_key_material, **members, KeyMaterialId="0" * 64) == "IncorrectKeyMaterialException"
    kms.import_key_material(**members, ImportType="EXISTING_KEY_MATERIAL", KeyMaterialId=answer["KeyMaterialId"])
    assert house.run(_imported(house, key_id)).description == "from the vault"


def test_a_valid_to_beyond_the_calendar(house: House, kms: Any) -> None:
    """A number that no date can be made of is a ValidationException, not a fault."""
    client = house.client(parameter_validation=False)
    members = parameters(kms, external_key(kms)).members(b"x" * 32)
    del members["ExpirationModel"]

    def spoil(request: Any, **_: Any) -> None:
        body = json.loads(request.data)
        request.data = json.dumps({**body, "ValidTo": 1e18}).encode()

    client.meta.events.register("before-sign.kms", spoil)
    assert code_of(client.import_key_material, **members) == "ValidationException"


def test_generated_keys_take_no_import(kms: Any) -> None:
    """UnsupportedOperationException, for each of the three."""
    key_id = kms.create_key()["KeyMetadata"]["KeyId"]
    other = parameters(kms, external_key(kms)).members(b"x" * 32)
    want = {"WrappingAlgorithm": "RSAES_OAEP_SHA_1", "WrappingKeySpec": "RSA_2048"}
    assert code_of(kms.get_parameters_for_import, KeyId=key_id, **want) == "UnsupportedOperationException"
    told = code_of(kms.import_key_material, **{**other, "KeyId": key_id})
    assert told == "UnsupportedOperationException"
    assert code_of(kms.delete_imported_key_material, KeyId=key_id) == "UnsupportedOperationException"
    external = external_key(kms)
    for algorithm, spec in (("SM2PKE", "RSA_2048"), ("RSAES_OAEP_SHA_1", "SM2")):
        want = {"WrappingAlgorithm": algorithm, "WrappingKeySpec": spec}
        assert code_of(kms.get_parameters_for_import, KeyId=external, **want) == "UnsupportedOperationException"


def test_parameters_of_a_key_are_bounded(house: House, kms: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is an object in a token."""
    monkeypatch.setattr("kmsd.custody.import_parameters.MOST_OUTSTANDING", 2)
    key_id = external_key(kms)
    for _ in range(2):
        parameters(kms, key_id)
    want = {"WrappingAlgorithm": "RSAES_OAEP_SHA_1", "WrappingKeySpec": "RSA_2048"}
    assert code_of(kms.get_parameters_for_import, KeyId=key_id, **want) == "LimitExceededException"
    house.clock.advance(hours=24)
    parameters(kms, key_id)


def test_policies_decide_on_imports(house: House, kms: Any) -> None:
    """By action, wrapping algorithm, key spec, expiration model and ValidTo."""
    key_id = external_key(kms)
    statement = {
        "Effect": "Allow",
        "Action": ["kms:GetParametersForImport", "kms:ImportKeyMaterial"],
        "Resource": "*",
        "Condition": {
            "StringEqualsIfExists": {
                "kms:WrappingAlgorithm": "RSAES_OAEP_SHA_256",
                "kms:WrappingKeySpec": "RSA_2048",
                "kms:ExpirationModel": "KEY_MATERIAL_EXPIRES",
            }
        },
    }
    user = house.client(credentials=house.user({"Version": "2012-10-17", "Statement": [statement]}))
    denied = {"WrappingAlgorithm": "RSAES_OAEP_SHA_1", "WrappingKeySpec": "RSA_2048"}
    assert code_of(user.get_parameters_for_import, KeyId=key_id, **denied) == "AccessDeniedException"
    members = parameters(user, key_id, "RSAES_OAEP_SHA_256").members(os.urandom(32))
    assert code_of(user.import_key_material, **members) == "AccessDeniedException"
    expires = {"ExpirationModel": "KEY_MATERIAL_EXPIRES", "ValidTo": house.clock.now() + timedelta(days=1)}
    user.import_key_material(**{**members, **expires})
    assert code_of(user.delete_imported_key_material, KeyId=key_id) == "AccessDeniedException"


def test_the_trail_tells_all_but_the_secrets(house: House, kms: Any) -> None:
    """Each call has its record; neither material, nor blob, nor import token is in any."""
    key_id = external_key(kms)
    given = parameters(kms, key_id)
    members = given.members(os.urandom(32))
    kms.import_key_material(**members)
    code_of(kms.import_key_material, **given.members(os.urandom(32)))
    kms.delete_imported_key_material(KeyId=key_id)
    mine = [
        record
        for record in house.records()
        if (record.get("requestParameters") or {}).get("keyId", "").endswith(key_id)
    ]
    names = [record["eventName"] for record in mine if record["eventName"] != "CreateKey"]
    assert names == ["GetParametersForImport", "ImportKeyMaterial", "ImportKeyMaterial", "DeleteImportedKeyMaterial"]
    assert mine[-2]["errorCode"] == "IncorrectKeyMaterialException"
    assert mine[-4]["requestParameters"]["wrappingAlgorithm"] == "RSAES_OAEP_SHA_1"
    for record in mine:
        members_shown = {*(record.get("requestParameters") or {}), *(record.get("responseElements") or {})}
        assert not members_shown & {"importToken", "encryptedKeyMaterial"}


def test_refusals_keep_to_the_beat(house: House, kms: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """How long the token took cannot be read off the time of the answer: it never comes before the beat."""
    given = parameters(kms, external_key(kms))
    waited: list[float] = []

    async def note(seconds: float) -> None:
        waited.append(seconds)

    monkeypatch.setattr("kmsd.custody.import_material.REFUSAL_BEAT", 30.0)
    monkeypatch.setattr("kmsd.custody.import_material.sleep", note)
    for blob in (b"x", os.urandom(256)):
        assert code_of(kms.import_key_material, **given.members_of(blob)) == "InvalidCiphertextException"
    assert len(waited) == 2
    assert all(20 < seconds < 30 for seconds in waited)
