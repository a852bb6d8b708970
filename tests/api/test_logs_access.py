"""Who may do what with log groups, and what the trail shows of it."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from botocore.exceptions import ClientError

from kmsd import services
from kmsd.services import OPERATIONS
from tests.support.botocore_models import assert_fit, empty_strings, fitting, model
from tests.support.broken_requests import WRONG_TYPES, breaking
from tests.support.harness import Harness
from tests.support.log_service import RESULTS, arn_of, key_for, key_policy, millis, put, query, refusal, stream_for

MODEL = model("logs")
LOGS = [operation.name for operation in OPERATIONS if operation.service is services.LOGS]


def allow(*actions: str, resource: Any = "*", **condition: Any) -> dict[str, Any]:
    """An identity policy."""
    statement = {"Effect": "Allow", "Action": list(actions), "Resource": resource}
    if condition:
        statement["Condition"] = condition
    return {"Version": "2012-10-17", "Statement": [statement]}


def denied(user: str, action: str, resource: str) -> tuple[str, str]:
    """AWS's words."""
    because = f"because no identity-based policy allows the logs:{action} action"
    return (
        "AccessDeniedException",
        f"User: {user} is not authorized to perform: logs:{action} on resource: {resource} {because}",
    )


def test_actions_on_groups_and_streams_have_the_arns_of_aws(harness: Harness) -> None:
    """`…:log-group:NAME:log-stream:` for a group, with the stream's name for a stream, bare for tags, none for all."""
    stream_for(harness.client("logs"), "/arns")
    nobody = harness.user()
    logs = harness.client("logs", nobody)
    group = arn_of("/arns")
    event = [{"timestamp": millis(), "message": "x"}]
    names = {"logGroupName": "/arns", "logStreamName": "s"}
    for action, act, members, resource in (
        ("DescribeLogGroups", logs.describe_log_groups, {}, f"{arn_of('')}:log-stream:"),
        ("GetQueryResults", logs.get_query_results, {"queryId": "x"}, f"{arn_of('')}:log-stream:"),
        ("FilterLogEvents", logs.filter_log_events, {"logGroupIdentifier": group}, f"{group}:log-stream:"),
        ("CreateLogGroup", logs.create_log_group, {"logGroupName": "/new"}, f"{arn_of('/new')}:log-stream:"),
        ("GetLogEvents", logs.get_log_events, names, f"{group}:log-stream:s"),
        ("PutLogEvents", logs.put_log_events, {**names, "logEvents": event}, f"{group}:log-stream:s"),
        ("CreateLogStream", logs.create_log_stream, names, f"{group}:log-stream:s"),
        ("TagResource", logs.tag_resource, {"resourceArn": group, "tags": {"a": "b"}}, group),
        ("ListTagsForResource", logs.list_tags_for_resource, {"resourceArn": group}, group),
        ("DisassociateKmsKey", logs.disassociate_kms_key, {"resourceIdentifier": RESULTS}, RESULTS),
    ):
        assert refusal(act, **members) == denied(nobody.arn, action, resource)


def test_a_group_that_may_not_be_read_does_not_tell_whether_it_exists(harness: Harness) -> None:
    """The same answer for both."""
    stream_for(harness.client("logs"), "/secret")
    nobody = harness.user()
    logs = harness.client("logs", nobody)
    for group in ("/secret", "/none"):
        expected = denied(nobody.arn, "FilterLogEvents", f"{arn_of(group)}:log-stream:")
        assert refusal(logs.filter_log_events, logGroupName=group) == expected


def test_policies_on_a_group_reach_it_and_no_other(harness: Harness) -> None:
    """The form with `:*` of the documentation; a stream by name; a query on all groups that it names."""
    admin = harness.client("logs")
    for group in ("/one", "/two"):
        stream_for(admin, group)
        put(admin, group, "x")
    logs = harness.client("logs", harness.user(allow("logs:*", resource=f"{arn_of('/one')}:*")))
    put(logs, "/one", "y")
    assert refusal(logs.filter_log_events, logGroupName="/two")[0] == "AccessDeniedException"
    span = {"startTime": 0, "endTime": 1, "queryString": "limit 1"}
    assert refusal(logs.start_query, logGroupNames=["/one"], **span) == ("", "")
    assert refusal(logs.start_query, logGroupNames=["/one", "/two"], **span)[0] == "AccessDeniedException"
    writer = harness.client("logs", harness.user(allow("logs:PutLogEvents", resource=f"{arn_of('/one')}:log-stream:s")))
    put(writer, "/one", "z")
    assert refusal(lambda **_: put(writer, "/one", "z", stream="t"))[0] == "AccessDeniedException"


def test_conditions_on_tags(harness: Harness) -> None:
    """aws:ResourceTag on what is there, aws:RequestTag on what is asked for; tags need logs:TagResource too."""
    admin = harness.client("logs")
    stream_for(admin, "/tagged", tags={"team": "blue"})
    stream_for(admin, "/untagged")
    blue = harness.client("logs", harness.user(allow("logs:*", StringEquals={"aws:ResourceTag/team": "blue"})))
    put(blue, "/tagged", "x")
    assert refusal(blue.filter_log_events, logGroupName="/untagged")[0] == "AccessDeniedException"
    maker = harness.user(allow("logs:CreateLogGroup", "logs:TagResource", StringEquals={"aws:RequestTag/team": "red"}))
    logs = harness.client("logs", maker)
    logs.create_log_group(logGroupName="/red", tags={"team": "red"})
    assert refusal(logs.create_log_group, logGroupName="/blue", tags={"team": "blue"})[0] == "AccessDeniedException"
    untagging = harness.client("logs", harness.user(allow("logs:CreateLogGroup")))
    assert refusal(untagging.create_log_group, logGroupName="/x", tags={"a": "b"})[0] == "AccessDeniedException"
    untagging.create_log_group(logGroupName="/x")


def test_the_records_of_calls(harness: Harness) -> None:
    """One for each; the group as a resource; no events, no patterns, no queries."""
    logs = harness.client("logs")
    stream_for(logs, "/audited")
    since = len(harness.records())
    put(logs, "/audited", "SECRET-TEXT")
    logs.filter_log_events(logGroupName="/audited", filterPattern="SECRET-TEXT")
    query(logs, "filter @message like 'SECRET-TEXT'", "/audited")
    refusal(
        logs.put_log_events,
        logGroupName="/audited",
        logStreamName="none",
        logEvents=[{"timestamp": 5, "message": "SECRET-TEXT"}],
    )
    records = harness.records()[since:]
    assert "SECRET-TEXT" not in json.dumps(records)
    wrote, read, started = records[:3]
    assert wrote["eventSource"] == "logs.amazonaws.com"
    assert wrote["requestParameters"] == {"logGroupName": "/audited", "logStreamName": "s"}
    assert (wrote["readOnly"], read["readOnly"], started["readOnly"]) == (False, True, False)
    assert wrote["resources"][0]["type"] == "AWS::Logs::LogGroup"
    assert wrote["resources"][0]["ARN"] == f"{arn_of('/audited')}:log-stream:s"
    assert started["eventName"] == "StartQuery"
    assert "queryString" not in started["requestParameters"]
    assert records[-1]["errorCode"] == "ResourceNotFoundException"


# --- botocore's model -----------------------------------------------------------------------------------


def violations() -> Any:
    """Every (operation, member, constraint, request) of the model."""
    for name in LOGS:
        shape = MODEL.operation_model(name).input_shape
        for member, member_shape in shape.members.items():
            if member_shape.type_name == "map" or member in ("tags", "tagKeys"):
                continue  # tags have rules of their own (test_logs_groups), entities are refused
            for kind, value in breaking(member_shape):
                yield pytest.param(
                    name, {**fitting(shape), member: value}, id=f"{name}-{member}-{kind}".replace(" ", "-")
                )
        for member in shape.required_members:
            request = {key: value for key, value in fitting(shape).items() if key != member}
            yield pytest.param(name, request, id=f"{name}-{member}-missing")


@pytest.fixture(name="client", scope="module")
def _client(harness: Harness) -> Any:
    return harness.client("logs", parameter_validation=False)


@pytest.mark.parametrize(("name", "request_"), list(violations()))
def test_each_broken_constraint_is_an_invalid_parameter(client: Any, name: str, request_: dict[str, Any]) -> None:
    """One constraint broken: 400 and InvalidParameterException, in AWS's form."""
    with pytest.raises(ClientError) as refused:
        client._make_api_call(name, request_)
    answer = refused.value.response
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 400
    assert answer["Error"]["Code"] == "InvalidParameterException"
    assert "validation error" in answer["Error"]["Message"]
    assert " detected: Value " in answer["Error"]["Message"]


@pytest.mark.parametrize("name", LOGS)
def test_a_wrong_json_type_is_a_serialization_error(harness: Harness, name: str) -> None:
    """Each member with another JSON type: 400 and SerializationException, never a 500."""
    client = harness.client("logs", parameter_validation=False)
    shape = MODEL.operation_model(name).input_shape
    bodies = []

    def spoil(request: Any, **_: Any) -> None:
        request.data = bodies[-1]

    client.meta.events.register("before-sign.logs", spoil)
    for member, member_shape in shape.members.items():
        wrong = WRONG_TYPES["integer" if member_shape.type_name == "long" else member_shape.type_name]
        bodies.append(msgspec.json.encode({**fitting(shape), member: wrong}))
        with pytest.raises(ClientError) as refused:
            client._make_api_call(name, {})
        answer = refused.value.response
        found = (answer["Error"]["Code"], answer["ResponseMetadata"]["HTTPStatusCode"])
        assert found == ("SerializationException", 400), member


def test_successful_responses_fit_the_model(harness: Harness) -> None:
    """Every response of a story with all operations validates against botocore's output shape."""
    logs, kms = harness.client("logs"), harness.client()
    seen: dict[str, Any] = {}
    logs.meta.events.register("after-call.logs", lambda model, parsed, **_: seen.setdefault(model.name, parsed))
    group = "/model"
    key = key_for(kms, arn_of(group))
    stream_for(logs, group, tags={"a": "b"}, kmsKeyId=key)
    put(logs, group, '{"a": 1}')
    logs.put_retention_policy(logGroupName=group, retentionInDays=30)
    logs.describe_log_groups(logGroupNamePrefix=group)
    logs.describe_log_streams(logGroupName=group)
    logs.get_log_events(logGroupName=group, logStreamName="s")
    logs.filter_log_events(logGroupName=group)
    logs.list_tags_for_resource(resourceArn=arn_of(group))
    logs.list_tags_log_group(logGroupName=group)
    logs.tag_resource(resourceArn=arn_of(group), tags={"c": "d"})
    logs.tag_log_group(logGroupName=group, tags={"c": "d"})
    logs.untag_resource(resourceArn=arn_of(group), tagKeys=["c"])
    logs.untag_log_group(logGroupName=group, tags=["c"])
    assert query(logs, "fields a", group)["status"] == "Complete"
    seen["GetQueryResults"] = query(logs, "fields a", group)
    logs.describe_queries(logGroupName=group)
    kms.put_key_policy(KeyId=key, Policy=key_policy(arn_of(group)))
    logs.disassociate_kms_key(logGroupName=group)
    logs.associate_kms_key(logGroupName=group, kmsKeyId=key)
    logs.delete_retention_policy(logGroupName=group)
    logs.delete_log_stream(logGroupName=group, logStreamName="s")
    logs.delete_log_group(logGroupName=group)
    assert not list(empty_strings(seen))
    assert_fit(seen, MODEL)
    assert set(LOGS) - {"StopQuery"} <= set(seen), set(LOGS) - set(seen)
