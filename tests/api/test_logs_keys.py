"""Log groups and keys of the customer's: who may use which key for what, in which state, and what the record says."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest

from tests.support.clients import ACCOUNT, REGION
from tests.support.harness import Harness
from tests.support.log_service import (
    RESULTS,
    arn_of,
    filtered,
    key_for,
    key_policy,
    messages,
    millis,
    of_service,
    put,
    query,
    refusal,
    rows,
    stream_for,
    wait_for,
)

ABSENT = f"arn:aws:kms:{REGION}:{ACCOUNT}:key/00000000-0000-4000-8000-000000000000"


def test_the_story_of_a_group_and_its_keys(harness: Harness) -> None:
    """Create with a key, put, associate another, disable, enable, disassociate, delete: what can be read when."""
    logs, kms = harness.client("logs"), harness.client()
    group, now = "/story/keys", millis()
    first, second = key_for(kms, arn_of(group)), key_for(kms, arn_of(group))
    stream_for(logs, group, kmsKeyId=first)
    assert logs.describe_log_groups(logGroupNamePrefix=group)["logGroups"][0]["kmsKeyId"] == first
    put(logs, group, "under the first key", at=now)
    logs.associate_kms_key(logGroupName=group, kmsKeyId=second)
    assert logs.describe_log_groups(logGroupNamePrefix=group)["logGroups"][0]["kmsKeyId"] == second
    put(logs, group, "under the second key", at=now + 1000)
    logs.disassociate_kms_key(logGroupName=group)
    assert "kmsKeyId" not in logs.describe_log_groups(logGroupNamePrefix=group)["logGroups"][0]
    put(logs, group, "under the daemon's own key", at=now + 2000)
    everything = ["under the first key", "under the second key", "under the daemon's own key"]
    assert messages(logs, group) == everything

    kms.disable_key(KeyId=first)
    code, message = refusal(logs.get_log_events, logGroupName=group, logStreamName="s", startFromHead=True)
    assert code == "AccessDeniedException"
    assert (
        message
        == f"The KMS key {first} is disabled: what was sealed under it cannot be read until the key is enabled again."
    )
    assert refusal(logs.filter_log_events, logGroupName=group)[0] == "AccessDeniedException"
    assert messages(logs, group, startTime=now + 1000) == everything[1:]
    assert filtered(logs, group, startTime=now + 1000) == everything[1:]
    kms.enable_key(KeyId=first)
    assert messages(logs, group) == everything

    kms.schedule_key_deletion(KeyId=first, PendingWindowInDays=7)
    assert "is pending deletion" in refusal(logs.filter_log_events, logGroupName=group)[1]
    harness.clock.advance(days=7, seconds=1)
    for _ in range(2):  # by the clock alone, and once the job has destroyed the key
        code, message = refusal(logs.filter_log_events, logGroupName=group)
        assert code == "AccessDeniedException"
        assert message == (
            f"The KMS key {first} has been deleted: what was sealed under it cannot be read any more, by anybody, ever."
        )
        assert messages(logs, group, startTime=now + 1000) == everything[1:]
        harness.tick()


@pytest.mark.parametrize("state", ["absent", "disabled", "pending", "no-arn", "alias", "elsewhere"])
def test_only_enabled_keys_are_associated(harness: Harness, state: str) -> None:
    """An unknown, disabled or doomed key, and what is no key's ARN, is InvalidParameterException; nothing changes."""
    logs, kms = harness.client("logs"), harness.client()
    group = f"/associate/{state}"
    stream_for(logs, group)
    name = key_for(kms, arn_of(group), arn_of(f"{group}/new"))
    match state:
        case "disabled":
            kms.disable_key(KeyId=name)
        case "pending":
            kms.schedule_key_deletion(KeyId=name, PendingWindowInDays=7)
        case "absent":
            name = ABSENT
        case "no-arn":
            name = name.rpartition("/")[2]
        case "alias":
            kms.create_alias(AliasName="alias/logs", TargetKeyId=name)
            name = f"arn:aws:kms:{REGION}:{ACCOUNT}:alias/logs"
        case _:
            name = name.replace(REGION, "eu-west-1")
    assert refusal(logs.associate_kms_key, logGroupName=group, kmsKeyId=name)[0] == "InvalidParameterException"
    assert refusal(logs.create_log_group, logGroupName=f"{group}/new", kmsKeyId=name)[0] == "InvalidParameterException"
    assert "kmsKeyId" not in logs.describe_log_groups(logGroupNamePrefix=group)["logGroups"][0]
    assert len(logs.describe_log_groups(logGroupNamePrefix=group)["logGroups"]) == 1


def test_whether_another_account_has_a_key_is_not_told(harness: Harness) -> None:
    """A key of another account that does not let the service in is refused like one that does not exist."""
    logs = harness.client("logs")
    group = "/associate/foreign"
    stream_for(logs, group)
    stranger = harness.user(
        {"Version": "2012-10-17", "Statement": {"Effect": "Allow", "Action": "*", "Resource": "*"}},
        account="111122223333",
    )
    theirs = harness.client("kms", stranger).create_key()["KeyMetadata"]["Arn"]
    absent = ABSENT.replace(ACCOUNT, "111122223333")
    answers = {refusal(logs.associate_kms_key, logGroupName=group, kmsKeyId=arn) for arn in (theirs, absent)}
    assert [code for code, _ in answers] == ["AccessDeniedException"]


def test_the_target_is_named_in_just_one_way(harness: Harness) -> None:
    """LogGroupName xor resourceIdentifier; the ARN of a group or of query results, and of nothing else."""
    logs, kms = harness.client("logs"), harness.client()
    group = "/target"
    stream_for(logs, group)
    key = key_for(kms, arn_of(group), RESULTS)
    for act, members in ((logs.associate_kms_key, {"kmsKeyId": key}), (logs.disassociate_kms_key, {})):
        assert refusal(act, **members)[0] == "InvalidParameterException"
        both = {"logGroupName": group, "resourceIdentifier": arn_of(group)}
        assert refusal(act, **both, **members)[0] == "InvalidParameterException"
        for text in (group, "arn:aws:s3:::bucket", f"{RESULTS}x", arn_of("")):
            assert refusal(act, resourceIdentifier=text, **members)[0] == "InvalidParameterException", text
        for text in (arn_of("/nowhere"), arn_of(group).replace(REGION, "eu-west-1")):
            assert refusal(act, resourceIdentifier=text, **members)[0] == "ResourceNotFoundException", text
        assert refusal(act, logGroupName="/nowhere", **members)[0] == "ResourceNotFoundException"
    logs.associate_kms_key(resourceIdentifier=arn_of(group), kmsKeyId=key)
    assert logs.describe_log_groups(logGroupNamePrefix=group)["logGroups"][0]["kmsKeyId"] == key
    logs.disassociate_kms_key(resourceIdentifier=f"{arn_of(group)}:*")
    assert "kmsKeyId" not in logs.describe_log_groups(logGroupNamePrefix=group)["logGroups"][0]
    logs.disassociate_kms_key(logGroupName=group)


def test_the_key_policy_decides_for_the_service(harness: Harness) -> None:
    """Without a statement for the service, or with one for another group, there is no association and no use."""
    logs, kms = harness.client("logs"), harness.client()
    group = "/policy"
    stream_for(logs, group)
    not_allowed = f"The specified KMS key does not exist or is not allowed to be used with Arn '{arn_of(group)}'"
    plain = kms.create_key()["KeyMetadata"]["Arn"]
    for_another = key_for(kms, arn_of("/policy2"))
    for key in (plain, for_another):
        assert refusal(logs.associate_kms_key, logGroupName=group, kmsKeyId=key) == (
            "AccessDeniedException",
            not_allowed,
        )
    key = key_for(kms, arn_of(group))
    logs.associate_kms_key(logGroupName=group, kmsKeyId=key)
    put(logs, group, "a secret of the group")
    kms.put_key_policy(KeyId=key, Policy=key_policy(arn_of("/policy2")))
    for act in (lambda **_: put(logs, group, "x"), logs.filter_log_events):
        code, message = refusal(act, logGroupName=group)
        assert code == "AccessDeniedException"
        assert f"its policy does not allow logs.{REGION}.amazonaws.com" in message
    kms.put_key_policy(KeyId=key, Policy=key_policy(arn_of(group)))
    assert filtered(logs, group) == ["a secret of the group"]


def test_source_conditions_of_the_documented_results_policy(harness: Harness) -> None:
    """AWS's policy for query results pins aws:SourceArn and aws:SourceAccount."""
    logs, kms = harness.client("logs"), harness.client()
    document = json.loads(key_policy(RESULTS))
    document["Statement"][1]["Condition"] = {
        "ArnEquals": {"aws:SourceArn": RESULTS},
        "StringEquals": {"aws:SourceAccount": ACCOUNT},
    }
    key = kms.create_key(Policy=json.dumps(document))["KeyMetadata"]["Arn"]
    logs.associate_kms_key(resourceIdentifier=RESULTS, kmsKeyId=key)
    logs.disassociate_kms_key(resourceIdentifier=RESULTS)
    document["Statement"][1]["Condition"]["StringEquals"]["aws:SourceAccount"] = "111111111111"
    kms.put_key_policy(KeyId=key, Policy=json.dumps(document))
    assert refusal(logs.associate_kms_key, resourceIdentifier=RESULTS, kmsKeyId=key)[0] == "AccessDeniedException"


def test_each_use_of_the_key_is_recorded_as_the_services(harness: Harness) -> None:
    """Association, sealing, opening and refusals, with the encryption context; and each data key once."""
    logs, kms = harness.client("logs"), harness.client()
    group = "/recorded"
    key = key_for(kms, arn_of(group))
    stream_for(logs, group)
    since = len(harness.records())
    logs.associate_kms_key(logGroupName=group, kmsKeyId=key)
    assert [record["eventName"] for record in of_service(harness, since)] == ["GenerateDataKey", "Decrypt"]
    since = len(harness.records())
    put(logs, group, "one")
    put(logs, group, "two")
    filtered(logs, group)
    (made,) = of_service(harness, since)
    assert made["eventName"] == "GenerateDataKey"
    assert made["eventSource"] == "kms.amazonaws.com"
    assert made["userIdentity"] == {"type": "AWSService", "invokedBy": "logs.amazonaws.com"}
    assert made["sourceIPAddress"] == "logs.amazonaws.com"
    assert made["requestParameters"] == {
        "keyId": key,
        "encryptionContext": {"aws:logs:arn": arn_of(group)},
        "keySpec": "AES_256",
    }
    assert made["resources"][0]["ARN"] == key
    assert made["recipientAccountId"] == ACCOUNT
    assert made["additionalEventData"]["decidedBy"] == ["key-policy:Logs"]
    kms.disable_key(KeyId=key)
    since = len(harness.records())
    refusal(logs.filter_log_events, logGroupName=group)
    (refused,) = of_service(harness, since)
    assert (refused["eventName"], refused["errorCode"]) == ("Decrypt", "AccessDeniedException")
    assert "is disabled" in refused["errorMessage"]


def test_query_results_have_a_key_of_their_own(harness: Harness) -> None:
    """`query-result:*`: override, disable, enable, disassociate, delete; what was sealed stays sealed."""
    logs, kms = harness.client("logs"), harness.client()
    group = "/results"
    stream_for(logs, group)
    put(logs, group, "found by a query")
    first, second = key_for(kms, RESULTS), key_for(kms, RESULTS)
    logs.associate_kms_key(resourceIdentifier=RESULTS, kmsKeyId=first)
    under_first = query(logs, "fields @message", group)
    assert under_first["status"] == "Complete"
    assert under_first["encryptionKey"] == first
    assert rows(under_first) == [{"@message": "found by a query"}]
    ids = [entry["queryId"] for entry in logs.describe_queries(logGroupName=group)["queries"]]
    logs.associate_kms_key(resourceIdentifier=RESULTS, kmsKeyId=second)
    assert query(logs, "fields @message", group)["encryptionKey"] == second
    kms.disable_key(KeyId=first)
    code, message = refusal(logs.get_query_results, queryId=ids[0])
    assert (code, "is disabled" in message) == ("AccessDeniedException", True)
    assert query(logs, "fields @message", group)["status"] == "Complete"
    kms.enable_key(KeyId=first)
    assert rows(wait_for(logs, ids[0])) == [{"@message": "found by a query"}]
    kms.disable_key(KeyId=second)
    assert query(logs, "fields @message", group)["status"] == "Failed"
    logs.disassociate_kms_key(resourceIdentifier=RESULTS)
    assert "encryptionKey" not in query(logs, "fields @message", group)
    kms.schedule_key_deletion(KeyId=first, PendingWindowInDays=7)
    harness.clock.advance(days=7, seconds=1)
    assert "by anybody, ever" in refusal(logs.get_query_results, queryId=ids[0])[1]


def test_a_query_over_what_cannot_be_read_fails(harness: Harness) -> None:
    """It does not answer with half of the events."""
    logs, kms = harness.client("logs"), harness.client()
    group = "/results/unreadable"
    key = key_for(kms, arn_of(group))
    stream_for(logs, group, kmsKeyId=key)
    put(logs, group, "x")
    kms.disable_key(KeyId=key)
    found = query(logs, "fields @message", group)
    assert (found["status"], found["results"]) == ("Failed", [])
    kms.enable_key(KeyId=key)
    assert query(logs, "fields @message", group)["status"] == "Complete"


def test_of_two_updates_at_the_same_instant_one_is_aborted(harness: Harness) -> None:
    """The group is changed between examination and commit: OperationAbortedException, and nothing is overwritten."""
    logs, kms = harness.client("logs"), harness.client()
    group = "/race"
    key = key_for(kms, arn_of(group))
    stream_for(logs, group)
    room = harness.components.logs
    assert room is not None
    examine = room.keys.validate_association

    async def and_somebody_else(*arguments: Any) -> Any:
        found = await examine(*arguments)
        reader = await harness.components.store.read()
        known = await reader.log_group(ACCOUNT, group)
        assert known is not None
        async with harness.components.store.write() as transaction:
            await transaction.update_log_group(known, known)
        return found

    room.keys.validate_association = and_somebody_else  # type: ignore[method-assign] # the moment between is hard to hit otherwise
    try:
        code, _ = refusal(logs.associate_kms_key, logGroupName=group, kmsKeyId=key)
    finally:
        room.keys.validate_association = examine  # type: ignore[method-assign]
    assert code == "OperationAbortedException"
    assert "kmsKeyId" not in logs.describe_log_groups(logGroupNamePrefix=group)["logGroups"][0]
    logs.associate_kms_key(logGroupName=group, kmsKeyId=key)


def test_rotation_of_the_key_keeps_everything_readable(harness: Harness) -> None:
    """Data keys stay wrapped under the material that wrapped them."""
    logs, kms = harness.client("logs"), harness.client()
    group = "/rotated"
    key = key_for(kms, arn_of(group))
    stream_for(logs, group, kmsKeyId=key)
    put(logs, group, "before")
    kms.rotate_key_on_demand(KeyId=key)
    room = harness.components.logs
    assert room is not None
    harness.opened.loop.call_soon_threadsafe(room.keys.close)
    put(logs, group, "after")
    harness.opened.loop.call_soon_threadsafe(room.keys.close)
    assert filtered(logs, group) == ["before", "after"]


def test_a_policy_that_asks_the_time_is_asked_each_time(harness: Harness) -> None:
    """A permission that ends at an instant ends then, though the answer was another one before."""
    logs, kms = harness.client("logs"), harness.client()
    group = "/until"
    key = key_for(kms, arn_of(group))
    stream_for(logs, group, kmsKeyId=key)
    put(logs, group, "before", "and then")
    until = (harness.clock.now() + timedelta(minutes=5)).strftime("%Y-%m-%dT%H:%M:%SZ")
    policy = json.loads(key_policy(arn_of(group)))
    policy["Statement"][1]["Condition"]["DateLessThan"] = {"aws:CurrentTime": until}
    hidden = json.dumps(policy).replace("CurrentTime", "Current\\u0054ime")
    for text in (json.dumps(policy), hidden):
        kms.put_key_policy(KeyId=key, Policy=text)
        assert filtered(logs, group) == ["before", "and then"]
    harness.clock.advance(minutes=6)
    code, message = refusal(logs.filter_log_events, logGroupName=group)
    assert code == "AccessDeniedException"
    assert "its policy does not allow" in message


def test_unmask_needs_its_own_permission(harness: Harness) -> None:
    """Though nothing is masked here: what is allowed here must not be refused at AWS, nor the other way round."""
    logs = harness.client("logs")
    stream_for(logs, "/masked")
    put(logs, "/masked", "x")
    actions = ["logs:GetLogEvents", "logs:FilterLogEvents"]
    statement = {"Effect": "Allow", "Action": actions, "Resource": f"{arn_of('/masked')}:*"}
    allowed = harness.client("logs", harness.user({"Version": "2012-10-17", "Statement": [statement]}))
    for client, expected in ((logs, ""), (allowed, "AccessDeniedException")):
        stream = {"logGroupName": "/masked", "logStreamName": "s", "unmask": True}
        assert refusal(client.get_log_events, **stream)[0] == expected
        assert refusal(client.filter_log_events, logGroupName="/masked", unmask=True)[0] == expected
    assert filtered(allowed, "/masked", unmask=False) == ["x"]


def test_no_event_is_before_the_beginning_of_time(harness: Harness) -> None:
    """An end of zero is an end, and not none."""
    logs = harness.client("logs")
    stream_for(logs, "/zero")
    put(logs, "/zero", "x")
    assert logs.get_log_events(logGroupName="/zero", logStreamName="s", endTime=0)["events"] == []
