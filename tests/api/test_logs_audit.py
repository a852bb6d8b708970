"""The audit trail as the log group `/kmsd/audit`: every record once, in order, sealed, for those who may read it."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kmsd.adapters.audit_trail.sink import SinkSettings, TrailSink
from kmsd.cloudwatch_logs import events
from kmsd.cloudwatch_logs.groups import AUDIT_GROUP
from kmsd.cloudwatch_logs.ports import SegmentsUnavailable
from tests.support.audit_trail import record
from tests.support.clients import ACCOUNT
from tests.support.harness import Harness, harness
from tests.support.log_service import (
    arn_of,
    audit_copy,
    copied,
    copy_audit,
    files_with,
    filtered,
    ids,
    messages,
    millis,
    query,
    refusal,
    rows,
    stream_for,
)

MARK = "marker-of-this-very-context"


@pytest.fixture(name="own")
def _own(tmp_path: Path) -> Iterator[Harness]:
    with harness(tmp_path) as found:
        yield found


def test_every_record_is_there_once_and_in_order(own: Harness) -> None:
    """Whoever copies, and however often: also by a process that knows nothing of what was copied before."""
    kms = own.client()
    key = kms.create_key()["KeyMetadata"]["Arn"]
    lasting = audit_copy(own)
    for turn in range(4):
        for number in range(5):
            kms.encrypt(KeyId=key, Plaintext=b"x", EncryptionContext={"n": f"{turn}.{number}"})
        recorded = own.records()
        assert copy_audit(own, lasting if turn < 2 else None) > 0
        assert ids(copied(own)) == ids(recorded)
    assert copied(own)[: len(recorded)] == recorded
    own.restart()
    own.client().list_keys()
    recorded = own.records()
    copy_audit(own)
    assert ids(copied(own)) == ids(recorded)


def test_the_group_and_its_streams(own: Harness) -> None:
    """One stream for each file of the trail, by its name; the time of an event is the time of its record."""
    own.client().list_keys()
    copy_audit(own)
    logs = own.client("logs")
    (group,) = logs.describe_log_groups(logGroupNamePrefix="/kmsd/")["logGroups"]
    assert (group["logGroupName"], group["logGroupArn"]) == (AUDIT_GROUP, arn_of(AUDIT_GROUP))
    assert "kmsKeyId" not in group
    assert "retentionInDays" not in group
    assert group["storedBytes"] > 0
    streams = [one["logStreamName"] for one in logs.describe_log_streams(logGroupName=AUDIT_GROUP)["logStreams"]]
    files = {path.name.removesuffix(".trail") for path in own.config.audit_dir.glob("*.trail")}
    assert streams
    assert set(streams) <= files
    shown = messages(logs, AUDIT_GROUP, streams[0])
    assert [json.loads(text)["eventName"] for text in shown][-1] == "ListKeys"
    (event,) = logs.filter_log_events(logGroupName=AUDIT_GROUP, filterPattern='{ $.eventName = "ListKeys" }')["events"]
    assert event["logStreamName"] == streams[0]
    assert 0 <= millis() - event["timestamp"] < 10_000
    assert event["timestamp"] % 1000 == 0


def test_a_second_is_copied_once_it_has_ended(own: Harness) -> None:
    """So that all processes show a second at the same time, and whoever follows the group misses nothing of it."""
    copy_audit(own)
    now = millis() // 1000
    own.client().list_aliases()
    copy = audit_copy(own)
    own.run(copy.run_once())
    copy.trail.unlock_chain("harness")
    seen = [one["eventName"] for one in copied(own)]
    assert "ListAliases" not in seen or millis() // 1000 > now
    copy_audit(own)
    assert [one["eventName"] for one in copied(own)].count("ListAliases") == 1


def test_copying_leaves_no_trace_in_the_trail(own: Harness) -> None:
    """Or it would have itself to copy for ever."""
    copy_audit(own)
    assert copy_audit(own) == 0
    before = len(own.records())
    for _ in range(3):
        own.clock.advance(seconds=30)
        assert copy_audit(own) == 0
    assert len(own.records()) == before


def test_who_decrypted_with_this_key(own: Harness) -> None:
    """The question for which the group is there, as docs/logs.md has it."""
    kms = own.client()
    key, other = (kms.create_key()["KeyMetadata"]["Arn"] for _ in range(2))
    policy = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "kms:*", "Resource": "*"}]}
    alice, bob = own.user(policy, name="alice"), own.user(policy, name="bob")
    for who, used in ((alice, key), (bob, key), (alice, other)):
        client = own.client("kms", who)
        client.decrypt(CiphertextBlob=client.encrypt(KeyId=used, Plaintext=b"x")["CiphertextBlob"])
        own.clock.advance(seconds=2)
    copy_audit(own)
    text = (
        "fields @timestamp, userIdentity.arn, eventName, errorCode "
        f'| filter eventName = "Decrypt" and resources.0.ARN = "{key}" | sort @timestamp desc'
    )
    found = rows(query(own.client("logs"), text, AUDIT_GROUP))
    assert [row["userIdentity.arn"] for row in found] == [bob.arn, alice.arn]
    assert [row["eventName"] for row in found] == ["Decrypt", "Decrypt"]


def test_what_is_copied_lies_there_sealed(own: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """A value of an encryption context is in the trail itself, and in nothing that the Logs side keeps."""
    # Stored, not deflated: it must be hidden by its sealing, and not by compression.
    monkeypatch.setattr(events, "LEVEL", 0)
    kms = own.client()
    key = kms.create_key()["KeyMetadata"]["Arn"]
    kms.encrypt(KeyId=key, Plaintext=b"x", EncryptionContext={"purpose": MARK})
    copy_audit(own)
    found = rows(query(own.client("logs"), f'filter @message like "{MARK}" | fields eventName', AUDIT_GROUP))
    assert [row["eventName"] for row in found] == ["Encrypt"]
    holding = files_with(own.config.data_dir, MARK.encode())
    assert holding
    assert all(path.suffix == ".trail" for path in holding)


def changes(logs: Any) -> Iterator[tuple[str, Any, dict[str, Any]]]:
    """Every operation that would change the group."""
    group, stream = {"logGroupName": AUDIT_GROUP}, {"logGroupName": AUDIT_GROUP, "logStreamName": "s"}
    resource = {"resourceArn": arn_of(AUDIT_GROUP)}
    key = "arn:aws:kms:us-east-1:000000000000:key/00000000-0000-4000-8000-000000000000"
    yield "CreateLogGroup", logs.create_log_group, group
    yield "DeleteLogGroup", logs.delete_log_group, group
    yield "CreateLogStream", logs.create_log_stream, stream
    yield "DeleteLogStream", logs.delete_log_stream, stream
    yield "PutLogEvents", logs.put_log_events, {**stream, "logEvents": [{"timestamp": millis(), "message": "{}"}]}
    yield "PutRetentionPolicy", logs.put_retention_policy, {**group, "retentionInDays": 1}
    yield "DeleteRetentionPolicy", logs.delete_retention_policy, group
    yield "AssociateKmsKey", logs.associate_kms_key, {**group, "kmsKeyId": key}
    yield "AssociateKmsKey", logs.associate_kms_key, {"resourceIdentifier": resource["resourceArn"], "kmsKeyId": key}
    yield "DisassociateKmsKey", logs.disassociate_kms_key, group
    yield "TagLogGroup", logs.tag_log_group, {**group, "tags": {"a": "b"}}
    yield "UntagLogGroup", logs.untag_log_group, {**group, "tags": ["a"]}
    yield "TagResource", logs.tag_resource, {**resource, "tags": {"a": "b"}}
    yield "UntagResource", logs.untag_resource, {**resource, "tagKeys": ["a"]}


def test_clients_change_nothing(own: Harness) -> None:
    """Not even the administrator; a clear error, and the group is as it was."""
    own.client().list_keys()
    copy_audit(own)
    logs = own.client("logs")
    before = logs.describe_log_groups(logGroupNamePrefix=AUDIT_GROUP)["logGroups"]
    streams = logs.describe_log_streams(logGroupName=AUDIT_GROUP)["logStreams"]
    for name, act, members in changes(logs):
        expected = f"The log group {AUDIT_GROUP} is kept by the service: it can be read, {name} is not allowed on it."
        assert refusal(act, **members) == ("InvalidParameterException", expected)
    stream = {"logGroupName": AUDIT_GROUP, "logStreamName": streams[0]["logStreamName"]}
    assert refusal(logs.delete_log_stream, **stream)[0] == "InvalidParameterException"
    assert logs.describe_log_groups(logGroupNamePrefix=AUDIT_GROUP)["logGroups"] == before
    assert logs.describe_log_streams(logGroupName=AUDIT_GROUP)["logStreams"] == streams
    assert logs.list_tags_for_resource(resourceArn=arn_of(AUDIT_GROUP))["tags"] == {}


def test_nobody_reads_it_without_permission_on_it(own: Harness) -> None:
    """Neither a user without logs: actions, nor one with those of another group, nor another account."""
    own.client().list_keys()
    copy_audit(own)

    def logs_of(resource: list[str], account: str = ACCOUNT) -> Any:
        statement = {"Effect": "Allow", "Action": "logs:*", "Resource": resource}
        policy = {"Version": "2012-10-17", "Statement": [statement]} if resource else None
        return own.client("logs", own.user(policy, account=account))

    (stream,) = own.client("logs").describe_log_streams(logGroupName=AUDIT_GROUP, limit=1)["logStreams"]
    named = {"logGroupName": AUDIT_GROUP}
    span = {"startTime": 0, "endTime": millis(), "queryString": "fields @message"}
    for logs in (logs_of([]), logs_of([f"{arn_of('/app')}:*"])):
        for act, members in (
            (logs.filter_log_events, named),
            (logs.describe_log_streams, named),
            (logs.get_log_events, {**named, "logStreamName": stream["logStreamName"]}),
            (logs.start_query, {**named, **span}),
            (logs.list_tags_for_resource, {"resourceArn": arn_of(AUDIT_GROUP)}),
        ):
            assert refusal(act, **members)[0] == "AccessDeniedException"
    elsewhere = logs_of(["*"], "111111111111")
    assert refusal(elsewhere.filter_log_events, **named)[0] == "ResourceNotFoundException"
    assert elsewhere.describe_log_groups()["logGroups"] == []
    allowed = logs_of([f"{arn_of(AUDIT_GROUP)}:*"])
    assert filtered(allowed, AUDIT_GROUP, limit=1)


def test_results_of_a_query_are_for_whoever_asked(own: Harness) -> None:
    """Whoever may call GetQueryResults, as applications do, does not get those of the audit trail by their id."""
    own.client().list_keys()
    copy_audit(own)
    stream_for(own.client("logs"), "/app")
    action = ["logs:GetQueryResults", "logs:DescribeQueries"]
    policy = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": action, "Resource": "*"}]}
    application, admin = own.client("logs", own.user(policy)), own.client("logs")
    span = {"startTime": 0, "endTime": millis(), "queryString": "fields @message"}
    for groups, expected in ((["/app"], ""), (["/app", AUDIT_GROUP], "AccessDeniedException")):
        query_id = admin.start_query(logGroupNames=groups, **span)["queryId"]
        assert refusal(application.get_query_results, queryId=query_id)[0] == expected
        assert refusal(admin.get_query_results, queryId=query_id)[0] == ""


@pytest.mark.parametrize("afterwards", [False, True])
def test_a_batch_that_failed_is_copied_once(own: Harness, monkeypatch: pytest.MonkeyPatch, *, afterwards: bool) -> None:
    """Whether the disk refused it, or took it and then reported a failure; the file is not read anew for that."""
    own.client().list_keys()
    copy = audit_copy(own)
    copy_audit(own, copy)
    own.client().list_aliases()
    recorded = own.records()
    segments = own.components.segments
    assert segments is not None
    append = segments.append

    async def fail(*arguments: Any) -> None:
        if afterwards:
            await append(*arguments)
        raise SegmentsUnavailable("input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(segments, "append", fail)
        for _ in range(3):
            with pytest.raises(SegmentsUnavailable):
                copy_audit(own, copy)
            if afterwards:
                break
    begun_at, read = [], copy.trail.read

    async def noted(writer: str, file: str, *, begin: int, skip: int) -> Any:
        begun_at.append((begin, skip))
        return await read(writer, file, begin=begin, skip=skip)

    with monkeypatch.context() as patched:
        patched.setattr(copy.trail, "read", noted)
        copy_audit(own, copy)
    assert all(begin > 0 and skip == 0 for begin, skip in begun_at)
    assert ids(copied(own))[: len(recorded)] == ids(recorded)
    assert len(set(ids(copied(own)))) == len(copied(own))


def test_a_chain_that_a_command_writes_is_left_until_it_is_done(own: Harness) -> None:
    """What it has written may still be taken back."""
    (own.config.audit_dir / ".cli.lock").touch()
    lines = b'1 %b {"eventTime":"2026-11-22T06:00:00Z","eventID":"1"}\n' % (b"0" * 64)
    (own.config.audit_dir / "cli.00000001.20261122.trail").write_bytes(lines + b"2 torn")
    with (own.config.audit_dir / ".cli.lock").open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        copy_audit(own)
        assert "1" not in ids(copied(own))
    copy_audit(own)
    assert ids(copied(own)).count("1") == 1
    assert (own.config.audit_dir / "cli.00000001.20261122.trail").stat().st_size == len(lines) + 6


def test_one_process_at_a_time_copies_a_chain(own: Harness) -> None:
    """Another leaves it alone; once it is released it goes on where the first one was."""
    own.client().list_keys()
    first, second = audit_copy(own), audit_copy(own)
    own.clock.advance(seconds=1)
    assert own.run(first.run_once()) > 0
    own.client().list_aliases()
    own.clock.advance(seconds=1)
    assert own.run(second.run_once()) == 0
    first.trail.unlock_chain("harness")
    recorded = own.records()
    assert own.run(second.run_once()) > 0
    assert ids(copied(own)) == ids(recorded)


def test_a_chain_that_was_left_is_copied_by_whoever_comes(own: Harness) -> None:
    """In turns, each by what it remembers or finds: every record once."""

    async def write(number: int) -> None:
        sink = await TrailSink.open(own.config.audit_dir, "cli", None)
        await sink.append(record(number, eventID=f"{number}"))
        await sink.close()

    copies = [audit_copy(own), audit_copy(own)]
    for number in range(6):
        own.run(write(number))
        copy_audit(own, copies[number % 3 % 2])
    found = [one["eventID"] for one in copied(own) if one.get("requestID", "").startswith("r")]
    assert found == [str(number) for number in range(6)]


def test_files_that_were_archived(own: Harness) -> None:
    """What was copied stays; the copy goes on with what is there."""

    async def write(number: int) -> None:
        sink = await TrailSink.open(own.config.audit_dir, "cli", None, SinkSettings(file_bytes=1))
        await sink.append(record(number, eventID=f"{number}"))
        await sink.close()

    copy = audit_copy(own)
    for number in range(3):
        own.run(write(number))
        copy_audit(own, copy)
        for path in sorted(own.config.audit_dir.glob("cli.*.trail"))[:-1]:
            path.unlink()
    found = [one["eventID"] for one in copied(own) if one.get("requestID", "").startswith("r")]
    assert found == ["0", "1", "2"]


def test_a_trail_that_was_set_back_is_noticed(own: Harness, capfd: pytest.CaptureFixture[str]) -> None:
    """The copy keeps what it has, says so, and goes on with what is written from then on."""

    async def write(numbers: range) -> None:
        sink = await TrailSink.open(own.config.audit_dir, "cli", None)
        for number in numbers:
            await sink.append(record(number, eventID=f"{number}"))
        await sink.close()

    def of_the_chain() -> list[str]:
        return [one["eventID"] for one in copied(own) if one.get("requestID", "").startswith("r")]

    own.run(write(range(3)))
    copy_audit(own)
    (path,) = own.config.audit_dir.glob("cli.*.trail")
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(line for line in lines if b'"eventID": "2"' not in line))
    capfd.readouterr()
    copy = audit_copy(own)
    copy_audit(own, copy)
    assert "audit_trail_shorter_than_copy" in "".join(capfd.readouterr())
    assert of_the_chain() == ["0", "1", "2"]
    own.run(write(range(3, 5)))
    copy_audit(own, copy)
    assert of_the_chain() == ["0", "1", "2", "3", "4"]
