"""What the records of calls, refusals and jobs say, over the wire."""

from __future__ import annotations

from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.support.clients import Credentials
from tests.support.harness import Harness
from tests.support.json_schema import violations
from tests.support.roles import allow, assume, make_role, trust
from tests.support.unsigned import ask_unsigned

ACCOUNT, REGION = "000000000000", "us-east-1"


@pytest.fixture(name="kms")
def _kms(harness: Harness) -> Any:
    return harness.client()


@pytest.fixture(name="key_id")
def _key_id(kms: Any) -> str:
    return str(kms.create_key()["KeyMetadata"]["KeyId"])


def arn(key_id: str) -> str:
    """The ARN of a key."""
    return f"arn:aws:kms:{REGION}:{ACCOUNT}:key/{key_id}"


def last(harness: Harness, event_name: str) -> dict[str, Any]:
    """The latest record of an operation; it fits the schema."""
    found = next(record for record in reversed(harness.records()) if record["eventName"] == event_name)
    assert violations(found) == []
    return found


def refused(call: Any, **members: Any) -> str:
    """The error of a call that must not work."""
    with pytest.raises(ClientError) as caught:
        call(**members)
    return str(caught.value.response["Error"]["Code"])


def test_an_encrypt_as_cloudtrail_has_it(harness: Harness, kms: Any, key_id: str) -> None:
    """Field by field, in CloudTrail's order."""
    answer = kms.encrypt(KeyId=key_id, Plaintext=b"x", EncryptionContext={"Department": "Engineering"})
    found = last(harness, "Encrypt")
    assert list(found) == [
        *("eventVersion", "userIdentity", "eventTime", "eventSource", "eventName", "awsRegion", "sourceIPAddress"),
        *("userAgent", "requestParameters", "responseElements", "additionalEventData", "requestID", "eventID"),
        *("readOnly", "resources", "eventType", "managementEvent", "recipientAccountId", "eventCategory"),
    ]
    assert found["userIdentity"] == {
        "type": "IAMUser",
        "principalId": found["userIdentity"]["principalId"],
        "arn": harness.admin.arn,
        "accountId": ACCOUNT,
        "accessKeyId": harness.admin.access_key_id,
        "userName": "admin",
    }
    assert found["requestParameters"] == {
        "keyId": key_id,
        "encryptionContext": {"Department": "Engineering"},
        "encryptionAlgorithm": "SYMMETRIC_DEFAULT",
    }
    assert found["responseElements"] is None
    assert found["requestID"] == answer["ResponseMetadata"]["RequestId"]
    assert found["readOnly"] is True
    assert found["resources"] == [{"accountId": ACCOUNT, "type": "AWS::KMS::Key", "ARN": arn(key_id)}]
    assert found["sourceIPAddress"] == "127.0.0.1"
    assert found["userAgent"].startswith("Boto3/")
    assert found["additionalEventData"]["decidedBy"] == ["identity-policy:#0"]


def test_the_material_that_was_used_is_named(harness: Harness, kms: Any, key_id: str) -> None:
    """The same material sealed and opened; ReEncrypt names both."""
    sealed = kms.encrypt(KeyId=key_id, Plaintext=b"x")["CiphertextBlob"]
    first = last(harness, "Encrypt")["additionalEventData"]["keyMaterialId"]
    kms.rotate_key_on_demand(KeyId=key_id)
    opened = kms.decrypt(CiphertextBlob=sealed)
    assert last(harness, "Decrypt")["additionalEventData"]["keyMaterialId"] == first == opened["KeyMaterialId"]
    kms.re_encrypt(CiphertextBlob=sealed, DestinationKeyId=key_id)
    both = last(harness, "ReEncrypt")
    assert both["additionalEventData"]["sourceKeyMaterialId"] == first
    assert both["additionalEventData"]["destinationKeyMaterialId"] not in (first, None)
    assert [resource["ARN"] for resource in both["resources"]] == [arn(key_id), arn(key_id)]


def test_a_refused_call_names_the_key(harness: Harness, key_id: str) -> None:
    """Refused for lack of permission: who, on which key, and, for the operator, why."""
    stranger = harness.user()
    assert (
        refused(harness.client(credentials=stranger).encrypt, KeyId=key_id, Plaintext=b"x") == "AccessDeniedException"
    )
    found = last(harness, "Encrypt")
    assert found["errorCode"] == "AccessDeniedException"
    assert "is not authorized to perform: kms:Encrypt" in found["errorMessage"]
    assert found["resources"][0]["ARN"] == arn(key_id)
    assert found["userIdentity"]["arn"] == stranger.arn
    assert "no identity-policy allows" in found["additionalEventData"]["reason"]
    assert found["requestParameters"]["keyId"] == key_id


def test_a_call_refused_for_the_keys_state_names_the_key(harness: Harness, kms: Any, key_id: str) -> None:
    """Also for operations that prepare something in the token before their transaction."""
    kms.disable_key(KeyId=key_id)
    assert refused(kms.encrypt, KeyId=key_id, Plaintext=b"x") == "DisabledException"
    assert last(harness, "Encrypt")["resources"][0]["ARN"] == arn(key_id)
    assert refused(kms.rotate_key_on_demand, KeyId=key_id) == "DisabledException"
    found = last(harness, "RotateKeyOnDemand")
    assert found["resources"][0]["ARN"] == arn(key_id)
    assert found["responseElements"] is None
    assert found["additionalEventData"]["decidedBy"] == ["identity-policy:#0"]


def test_a_grant_that_decides_is_named(harness: Harness, kms: Any, key_id: str) -> None:
    """By its id; and CreateGrant's record shows the grant, never its token."""
    stranger = harness.user()
    made = kms.create_grant(
        KeyId=key_id,
        GranteePrincipal=stranger.arn,
        Operations=["Encrypt"],
        Constraints={"EncryptionContextSubset": {"a": "b"}},
    )
    created = last(harness, "CreateGrant")
    assert created["requestParameters"] == {
        "keyId": key_id,
        "granteePrincipal": stranger.arn,
        "constraints": {"encryptionContextSubset": {"a": "b"}},
        "operations": ["Encrypt"],
    }
    assert created["responseElements"] == {"grantId": made["GrantId"], "keyId": arn(key_id)}
    harness.client(credentials=stranger).encrypt(KeyId=arn(key_id), Plaintext=b"x", EncryptionContext={"a": "b"})
    found = last(harness, "Encrypt")["additionalEventData"]
    assert found["grantIds"] == [made["GrantId"]]
    assert found["decidedBy"] == [f"grant:{made['GrantId']}"]


def test_retiring_by_token_names_key_and_grant(harness: Harness, kms: Any, key_id: str) -> None:
    """The request holds a token alone, which is not shown."""
    me = harness.admin.arn
    made = kms.create_grant(KeyId=key_id, GranteePrincipal=me, RetiringPrincipal=me, Operations=["Encrypt"])
    kms.retire_grant(GrantToken=made["GrantToken"])
    found = last(harness, "RetireGrant")
    assert found["requestParameters"] == {}
    assert found["responseElements"] == {"keyId": arn(key_id)}
    assert found["additionalEventData"]["grantId"] == made["GrantId"]
    assert found["resources"] == [{"accountId": ACCOUNT, "type": "AWS::KMS::Key", "ARN": arn(key_id)}]


def test_aliases_are_resources(harness: Harness, kms: Any, key_id: str) -> None:
    """The alias and the key that it names; `responseElements.keyId` is the key's ARN."""
    kms.create_alias(AliasName="alias/audit", TargetKeyId=key_id)
    kms.delete_alias(AliasName="alias/audit")
    for name in ("CreateAlias", "DeleteAlias"):
        found = last(harness, name)
        assert [resource["ARN"] for resource in found["resources"]] == [
            f"arn:aws:kms:{REGION}:{ACCOUNT}:alias/audit",
            arn(key_id),
        ]
        assert found["responseElements"] == {"keyId": arn(key_id)}


def test_dates_and_names_of_a_new_key(harness: Harness, kms: Any) -> None:
    """CreateKey's metadata as CloudTrail writes it."""
    made = kms.create_key(Description="d", Tags=[{"TagKey": "a", "TagValue": "b"}])["KeyMetadata"]
    found = last(harness, "CreateKey")
    shown = found["responseElements"]["keyMetadata"]
    created = made["CreationDate"]
    assert (
        shown["creationDate"]
        == f"{created:%b} {created.day}, {created:%Y}, {created.hour % 12 or 12}:{created:%M:%S %p}"
    )
    assert shown["AWSAccountId"] == ACCOUNT
    assert found["requestParameters"]["tags"] == [{"tagKey": "a", "tagValue": "b"}]
    kms.schedule_key_deletion(KeyId=made["KeyId"], PendingWindowInDays=7)
    assert last(harness, "ScheduleKeyDeletion")["responseElements"]["keyId"] == arn(made["KeyId"])


def test_a_role_session_is_told_with_its_role(harness: Harness, key_id: str) -> None:
    """`sessionContext` as CloudTrail has it."""
    role = make_role(harness, "auditor", trust(harness.admin.arn), allow("kms:*"))
    session = assume(harness, None, role)
    harness.client(credentials=session).describe_key(KeyId=key_id)
    identity = last(harness, "DescribeKey")["userIdentity"]
    assert identity["type"] == "AssumedRole"
    assert identity["arn"] == f"arn:aws:sts::{ACCOUNT}:assumed-role/auditor/session"
    assert identity["sessionContext"]["sessionIssuer"]["arn"] == role
    assert identity["sessionContext"]["attributes"]["mfaAuthenticated"] == "false"


def test_an_unauthenticated_request_is_recorded(harness: Harness) -> None:
    """A wrong signature: the access key it claimed, and nobody's name."""
    wrong = Credentials(harness.admin.access_key_id, "x" * 40)
    assert refused(harness.client(credentials=wrong).list_keys) == "InvalidSignatureException"
    found = last(harness, "ListKeys")
    assert found["userIdentity"] == {"type": "Unknown", "accessKeyId": harness.admin.access_key_id}
    assert found["errorCode"] == "InvalidSignatureException"


@pytest.mark.parametrize("agent", [b"caf\xe9", b"\xff\xfe", "日本".encode()])
def test_foreign_bytes_in_headers_break_no_record(harness: Harness, agent: bytes) -> None:
    """What cannot be written as UTF-8 is replaced; the request is refused and recorded as any other."""
    code = ask_unsigned(harness.endpoint, "ListAliases", agent.decode("latin-1"))
    assert code == "MissingAuthenticationTokenException"
    assert last(harness, "ListAliases")["errorCode"] == "MissingAuthenticationTokenException"


def test_an_unknown_operation_is_the_callers(harness: Harness, kms: Any) -> None:
    """The signature held: the record says who asked for what does not exist."""
    assert refused(kms.replicate_key, KeyId="x" * 36, ReplicaRegion="eu-west-1") == "UnknownOperationException"
    found = last(harness, "ReplicateKey")
    assert found["userIdentity"]["arn"] == harness.admin.arn
    assert found["recipientAccountId"] == ACCOUNT


def test_jobs_are_service_events(harness: Harness, kms: Any, key_id: str) -> None:
    """Rotation and deletion, as CloudTrail has them."""
    kms.enable_key_rotation(KeyId=key_id, RotationPeriodInDays=90)
    harness.clock.advance(days=91)
    harness.tick()
    found = last(harness, "RotateKey")
    assert found["eventType"] == "AwsServiceEvent"
    assert found["userIdentity"] == {"accountId": ACCOUNT, "invokedBy": "AWS Internal"}
    assert (found["sourceIPAddress"], found["userAgent"]) == ("AWS Internal", "AWS Internal")
    assert found["serviceEventDetails"] == {"keyId": key_id, "rotationType": "AUTOMATIC"}
    assert "requestID" not in found
    harness.client().schedule_key_deletion(KeyId=key_id, PendingWindowInDays=7)
    harness.clock.advance(days=8)
    harness.tick()
    deleted = last(harness, "DeleteKey")
    assert deleted["serviceEventDetails"]["keyId"] == key_id
    assert deleted["resources"][0]["ARN"] == arn(key_id)
