"""Declarations against botocore's model, over the wire: every constraint, every type, every response."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from botocore.exceptions import ClientError

from kmsd import services
from kmsd.services import OPERATIONS
from tests.support.botocore_models import (
    assert_fit,
    empty_strings,
    fitting,
    members_of_declaration,
    members_of_model,
    model,
)
from tests.support.broken_requests import WRONG_TYPES, breaking
from tests.support.harness import Harness
from tests.support.key_import import external_key, parameters

MODEL = model("kms")
KMS = [operation.name for operation in OPERATIONS if operation.service is services.KMS]
REFERENCE = (
    *("CancelKeyDeletion", "CreateAlias", "CreateGrant", "CreateKey", "Decrypt", "DeleteAlias", "DescribeKey"),
    *("DeleteImportedKeyMaterial", "DisableKey", "DisableKeyRotation", "EnableKey", "EnableKeyRotation", "Encrypt"),
    *("GenerateDataKey", "GenerateDataKeyWithoutPlaintext", "GenerateRandom", "GetKeyPolicy", "GetKeyRotationStatus"),
    *("GetParametersForImport", "ImportKeyMaterial", "ListAliases", "ListGrants", "ListKeyPolicies", "ListKeys"),
    *("ListRetirableGrants", "PutKeyPolicy", "ReEncrypt", "RetireGrant", "RevokeGrant", "ScheduleKeyDeletion"),
    *("UpdateAlias", "UpdateKeyDescription"),
)
"""The 32 actions of the reference."""
WITHOUT_TOKEN = {"Encapsulate", "Decapsulate"}
"""No key of SoftHSM 2.6.1 can do these: tests/contract shows them on a token that can."""


def violations() -> Iterator[Any]:
    """Every (operation, member, constraint, request) of the model."""
    for name in KMS:
        shape = MODEL.operation_model(name).input_shape
        for member, member_shape in shape.members.items():
            for kind, value in breaking(member_shape):
                yield pytest.param(
                    name, {**fitting(shape), member: value}, id=f"{name}-{member}-{kind}".replace(" ", "-")
                )
        for member in shape.required_members:
            request = {key: value for key, value in fitting(shape).items() if key != member}
            yield pytest.param(name, request, id=f"{name}-{member}-missing")


def call(client: Any, name: str, request: dict[str, Any]) -> Any:
    """Send a request as it is, without botocore's own validation."""
    return client._make_api_call(name, request)


@pytest.fixture(name="client", scope="module")
def _client(harness: Harness) -> Any:
    return harness.client(parameter_validation=False)


@pytest.mark.parametrize(("name", "request_"), list(violations()))
def test_each_broken_constraint_is_a_validation_error(client: Any, name: str, request_: dict[str, Any]) -> None:
    """One constraint broken: 400 and ValidationException, in AWS's form."""
    if name == "CreateGrant":
        request_ = {"GranteePrincipal": "arn:aws:iam::000000000000:root", **request_}
    with pytest.raises(ClientError) as refused:
        call(client, name, request_)
    answer = refused.value.response
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 400
    assert answer["Error"]["Code"] == "ValidationException"
    assert re.match(
        r"[0-9]+ validation errors? detected: (Value .* at '.*' failed to satisfy constraint: )?",
        answer["Error"]["Message"],
    )


def test_all_violations_are_listed_in_one_answer(client: Any) -> None:
    """Not only the first."""
    with pytest.raises(ClientError) as refused:
        call(client, "CreateAlias", {"AliasName": "", "TargetKeyId": ""})
    assert refused.value.response["Error"]["Message"] == (
        "3 validation errors detected: Value '' at 'aliasName' failed to satisfy constraint: "
        "Member must have length greater than or equal to 1; Value '' at 'aliasName' failed to satisfy constraint: "
        "Member must satisfy regular expression pattern: ^[a-zA-Z0-9:/_-]+$; "
        "Value '' at 'targetKeyId' failed to satisfy constraint: Member must have length greater than or equal to 1"
    )


def test_the_table_has_the_reference() -> None:
    """Every operation of the reference is there, and none that the model does not know."""
    assert set(REFERENCE) <= set(KMS) <= set(MODEL.operation_names)


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: f"{operation.service.scope}-{operation.name}")
def test_no_member_is_ignored_in_silence(operation: Any) -> None:
    """Every member that today's model has is declared: kmsd acts on it, or refuses it by name."""
    request = model(operation.service.scope).operation_model(operation.name).input_shape
    assert sorted(members_of_declaration(operation.request)) == sorted(members_of_model(request))


@pytest.mark.parametrize("name", KMS)
def test_a_wrong_json_type_is_a_serialization_error(harness: Harness, name: str) -> None:
    """Each member with another JSON type: 400 and SerializationException, never a 500."""
    client = harness.client(parameter_validation=False)
    shape = MODEL.operation_model(name).input_shape
    bodies = []

    def spoil(request: Any, **_: Any) -> None:
        request.data = bodies[-1]

    client.meta.events.register("before-sign.kms", spoil)
    for member, member_shape in shape.members.items():
        wrong = WRONG_TYPES[member_shape.type_name]
        bodies.append(msgspec.json.encode({**fitting(shape), member: wrong}))
        with pytest.raises(ClientError) as refused:
            call(client, name, {})
        answer = refused.value.response
        assert (answer["Error"]["Code"], answer["ResponseMetadata"]["HTTPStatusCode"]) == (
            "SerializationException",
            400,
        ), member


def test_successful_responses_fit_the_model(harness: Harness) -> None:
    """Every response that the story produces validates against botocore's output shape, and holds no empty string."""
    client = harness.client()
    seen: dict[str, Any] = {}
    empty: list[str] = []

    def note(model: Any, parsed: Any, **_: Any) -> None:
        seen.setdefault(model.name, parsed)
        empty.extend(f"{model.name}: {member}" for member in empty_strings(parsed))

    client.meta.events.register("after-call.kms", note)
    _story(client)
    assert not empty
    assert_fit(seen, MODEL)
    assert set(KMS) - set(seen) == WITHOUT_TOKEN


def _story(client: Any) -> None:
    """One successful call of every operation."""
    _story_of_kinds(client)
    key_id = client.create_key(Tags=[{"TagKey": "a", "TagValue": "b"}])["KeyMetadata"]["KeyId"]
    other = client.create_key()["KeyMetadata"]["KeyId"]
    me = "arn:aws:iam::000000000000:user/admin"
    client.describe_key(KeyId=key_id)
    client.get_key_last_usage(KeyId=key_id)
    client.list_keys(Limit=1)
    client.create_alias(AliasName="alias/story", TargetKeyId=key_id)
    client.update_alias(AliasName="alias/story", TargetKeyId=other)
    client.list_aliases()
    client.delete_alias(AliasName="alias/story")
    blob = client.encrypt(KeyId=key_id, Plaintext=b"x")["CiphertextBlob"]
    client.decrypt(CiphertextBlob=blob)
    client.re_encrypt(CiphertextBlob=blob, DestinationKeyId=other)
    client.generate_data_key(KeyId=key_id, KeySpec="AES_256")
    client.generate_data_key_without_plaintext(KeyId=key_id, KeySpec="AES_256")
    client.generate_random(NumberOfBytes=8)
    made = client.create_grant(
        KeyId=key_id,
        GranteePrincipal=me,
        RetiringPrincipal=me,
        Operations=["Decrypt"],
        Name="n",
        Constraints={"EncryptionContextSubset": {"a": "b"}},
    )
    client.list_grants(KeyId=key_id)
    client.list_retirable_grants(RetiringPrincipal=me)
    client.retire_grant(GrantToken=made["GrantToken"])
    made = client.create_grant(KeyId=key_id, GranteePrincipal=me, Operations=["Decrypt"])
    client.list_grants(KeyId=key_id)
    client.revoke_grant(KeyId=key_id, GrantId=made["GrantId"])
    policy = client.get_key_policy(KeyId=key_id)["Policy"]
    client.put_key_policy(KeyId=key_id, Policy=policy)
    client.list_key_policies(KeyId=key_id)
    client.enable_key_rotation(KeyId=key_id, RotationPeriodInDays=90)
    client.get_key_rotation_status(KeyId=key_id)
    client.rotate_key_on_demand(KeyId=key_id)
    client.list_key_rotations(KeyId=key_id, IncludeKeyMaterial="ALL_KEY_MATERIAL")
    client.disable_key_rotation(KeyId=key_id)
    client.tag_resource(KeyId=key_id, Tags=[{"TagKey": "c", "TagValue": ""}])
    client.list_resource_tags(KeyId=key_id)
    client.untag_resource(KeyId=key_id, TagKeys=["a"])
    client.update_key_description(KeyId=key_id, Description="d")
    client.disable_key(KeyId=key_id)
    client.enable_key(KeyId=key_id)
    client.schedule_key_deletion(KeyId=key_id, PendingWindowInDays=7)
    client.describe_key(KeyId=key_id)
    client.cancel_key_deletion(KeyId=key_id)
    external = external_key(client)
    client.import_key_material(**parameters(client, external).members(b"material of thirty-two bytes, ok"))
    client.delete_imported_key_material(KeyId=external)


def _story_of_kinds(client: Any) -> None:
    """One successful call of every operation that symmetric encryption keys do not have."""

    def key(spec: str, usage: str) -> str:
        return str(client.create_key(KeySpec=spec, KeyUsage=usage)["KeyMetadata"]["KeyId"])

    signing = {"KeyId": key("ECC_NIST_P256", "SIGN_VERIFY"), "Message": b"x", "SigningAlgorithm": "ECDSA_SHA_256"}
    client.verify(**signing, Signature=client.sign(**signing)["Signature"])
    mac = {"KeyId": key("HMAC_256", "GENERATE_VERIFY_MAC"), "Message": b"x", "MacAlgorithm": "HMAC_SHA_256"}
    client.verify_mac(**mac, Mac=client.generate_mac(**mac)["Mac"])
    agreeing = {"KeyId": key("ECC_NIST_P384", "KEY_AGREEMENT")}
    public = client.get_public_key(**agreeing)["PublicKey"]
    client.derive_shared_secret(**agreeing, KeyAgreementAlgorithm="ECDH", PublicKey=public)
    pair = {"KeyId": client.create_key()["KeyMetadata"]["KeyId"], "KeyPairSpec": "ECC_NIST_P256"}
    client.generate_data_key_pair(**pair)
    client.generate_data_key_pair_without_plaintext(**pair)
