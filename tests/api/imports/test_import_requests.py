"""What a request to import may say, who may make it, and what the trail and the clock tell of it."""

from __future__ import annotations

import json
import os
from datetime import timedelta
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.support.clients import code_of
from tests.support.harness import Harness
from tests.support.key_import import (
    FOREVER,
    external_key,
    imported_material,
    parameters,
)

ME = "arn:aws:iam::000000000000:user/admin"


def test_the_request_is_checked(harness: Harness, kms: Any) -> None:
    """ValidTo and ExpirationModel as AWS has them; the newer members where they have sense."""
    material, key_id = os.urandom(32), external_key(kms)
    members = parameters(kms, key_id).members(material)
    del members["ExpirationModel"]
    tomorrow = harness.clock.now() + timedelta(days=1)
    with pytest.raises(ClientError) as refused:
        kms.import_key_material(**members)
    assert refused.value.response["Error"]["Message"] == (
        "A validTo date must be set if the ExpirationModel is KEY_MATERIAL_EXPIRES"
    )
    invalid: list[dict[str, Any]] = [
        {"ValidTo": harness.clock.now() - timedelta(seconds=1)},
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
    assert harness.run(imported_material(harness, key_id)).description == "from the vault"
    members |= FOREVER
    told = code_of(kms.import_key_material, **members, ImportType="NEW_KEY_MATERIAL")
    assert told == "IncorrectKeyMaterialException"
    assert code_of(kms.import_key_material, **members, KeyMaterialId="0" * 64) == "IncorrectKeyMaterialException"
    kms.import_key_material(**members, ImportType="EXISTING_KEY_MATERIAL", KeyMaterialId=answer["KeyMaterialId"])
    assert harness.run(imported_material(harness, key_id)).description == "from the vault"


def test_a_valid_to_beyond_the_calendar(harness: Harness, kms: Any) -> None:
    """A number that no date can be made of is a ValidationException, not a fault."""
    client = harness.client(parameter_validation=False)
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


def test_parameters_of_a_key_are_bounded(harness: Harness, kms: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is an object in a token."""
    monkeypatch.setattr("kmsd.custody.import_parameters.MAX_OUTSTANDING", 2)
    key_id = external_key(kms)
    for _ in range(2):
        parameters(kms, key_id)
    want = {"WrappingAlgorithm": "RSAES_OAEP_SHA_1", "WrappingKeySpec": "RSA_2048"}
    assert code_of(kms.get_parameters_for_import, KeyId=key_id, **want) == "LimitExceededException"
    harness.clock.advance(hours=24)
    parameters(kms, key_id)


def test_policies_decide_on_imports(harness: Harness, kms: Any) -> None:
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
    user = harness.client(credentials=harness.user({"Version": "2012-10-17", "Statement": [statement]}))
    denied = {"WrappingAlgorithm": "RSAES_OAEP_SHA_1", "WrappingKeySpec": "RSA_2048"}
    assert code_of(user.get_parameters_for_import, KeyId=key_id, **denied) == "AccessDeniedException"
    members = parameters(user, key_id, "RSAES_OAEP_SHA_256").members(os.urandom(32))
    assert code_of(user.import_key_material, **members) == "AccessDeniedException"
    expires = {"ExpirationModel": "KEY_MATERIAL_EXPIRES", "ValidTo": harness.clock.now() + timedelta(days=1)}
    user.import_key_material(**{**members, **expires})
    assert code_of(user.delete_imported_key_material, KeyId=key_id) == "AccessDeniedException"


def test_the_trail_tells_all_but_the_secrets(harness: Harness, kms: Any) -> None:
    """Each call has its record; neither material, nor blob, nor import token is in any."""
    key_id = external_key(kms)
    given = parameters(kms, key_id)
    members = given.members(os.urandom(32))
    kms.import_key_material(**members)
    code_of(kms.import_key_material, **given.members(os.urandom(32)))
    kms.delete_imported_key_material(KeyId=key_id)
    mine = [
        record
        for record in harness.records()
        if (record.get("requestParameters") or {}).get("keyId", "").endswith(key_id)
    ]
    names = [record["eventName"] for record in mine if record["eventName"] != "CreateKey"]
    assert names == ["GetParametersForImport", "ImportKeyMaterial", "ImportKeyMaterial", "DeleteImportedKeyMaterial"]
    assert mine[-2]["errorCode"] == "IncorrectKeyMaterialException"
    assert mine[-4]["requestParameters"]["wrappingAlgorithm"] == "RSAES_OAEP_SHA_1"
    for record in mine:
        members_shown = {*(record.get("requestParameters") or {}), *(record.get("responseElements") or {})}
        assert not members_shown & {"importToken", "encryptedKeyMaterial"}


def test_refusals_keep_to_the_beat(harness: Harness, kms: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """How long the token took cannot be read off the time of the answer: it never comes before the beat."""
    given = parameters(kms, external_key(kms))
    waited: list[float] = []

    async def note(seconds: float) -> None:
        waited.append(seconds)

    monkeypatch.setattr("kmsd.custody.imported_material.REFUSAL_QUANTUM_SECONDS", 30.0)
    monkeypatch.setattr("kmsd.custody.imported_material.sleep", note)
    for blob in (b"x", os.urandom(256)):
        assert code_of(kms.import_key_material, **given.members_of(blob)) == "InvalidCiphertextException"
    assert len(waited) == 2
    assert all(20 < seconds < 30 for seconds in waited)
