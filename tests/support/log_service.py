"""What tests of the Logs side share: key policies, batches, and reading everything."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable, Container, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from kmsd.adapters.audit_trail.follower import TrailFollower
from kmsd.cloudwatch_logs.groups import AUDIT_GROUP
from kmsd.cloudwatch_logs.jobs.audit_copy import AuditCopy
from kmsd.custody import key_usage
from kmsd.linux.aio import AioContext, Write
from tests.support.clients import ACCOUNT, REGION, signing_clock
from tests.support.harness import Harness

SERVICE = f"logs.{REGION}.amazonaws.com"


def fail_syncs(patched: pytest.MonkeyPatch, error: OSError, inodes: Container[int] | None = None) -> None:
    """Let syncs and durable writes of these files (None: of all) fail, the kernel's when they are done."""
    sync, put, begin, write = os.fdatasync, os.pwrite, AioContext.submit, AioContext.write

    def fails(descriptor: int) -> bool:
        return inodes is None or os.fstat(descriptor).st_ino in inodes

    def failing(descriptor: int) -> None:
        if fails(descriptor):
            raise error
        sync(descriptor)

    def failing_put(descriptor: int, data: memoryview, offset: int) -> int:
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_DSYNC and fails(descriptor):
            raise error
        return put(descriptor, data, offset)

    def failing_later(kernel: AioContext, descriptor: int, then: Callable[[OSError | None], None]) -> None:
        begin(kernel, descriptor, (lambda _: then(error)) if fails(descriptor) else then)

    def failing_write(kernel: AioContext, what: Write, then: Callable[[OSError | None], None]) -> None:
        write(kernel, what, (lambda _: then(error)) if fails(what.descriptor) else then)

    patched.setattr(os, "fdatasync", failing)
    patched.setattr(os, "pwrite", failing_put)
    patched.setattr(AioContext, "submit", failing_later)
    patched.setattr(AioContext, "write", failing_write)


def arn_of(group: str) -> str:
    """ARN of a log group."""
    return f"arn:aws:logs:{REGION}:{ACCOUNT}:log-group:{group}"


RESULTS = f"arn:aws:logs:{REGION}:{ACCOUNT}:query-result:*"


def key_policy(*arns: str) -> str:
    """The key policy that AWS's documentation gives for log groups: pinned to their ARNs."""
    actions = ["kms:Encrypt*", "kms:Decrypt*", "kms:ReEncrypt*", "kms:GenerateDataKey*", "kms:Describe*"]
    statements: list[dict[str, Any]] = [
        {
            "Effect": "Allow",
            "Principal": {"AWS": f"arn:aws:iam::{ACCOUNT}:root"},
            "Action": "kms:*",
            "Resource": "*",
        },
        {
            "Sid": "Logs",
            "Effect": "Allow",
            "Principal": {"Service": SERVICE},
            "Action": actions,
            "Resource": "*",
            "Condition": {"ArnEquals": {"kms:EncryptionContext:aws:logs:arn": list(arns)}},
        },
    ]
    return json.dumps({"Version": "2012-10-17", "Statement": statements})


def key_for(kms: Any, *arns: str) -> str:
    """ARN of a new key that log groups (or query results) of these ARNs can use."""
    metadata = kms.create_key(Policy=key_policy(*arns))["KeyMetadata"]
    return str(metadata["Arn"])


def stream_for(logs: Any, group: str, stream: str = "s", **members: Any) -> None:
    """A new group with a stream."""
    logs.create_log_group(logGroupName=group, **members)
    logs.create_log_stream(logGroupName=group, logStreamName=stream)


def millis() -> int:
    """The daemon's present time, as events have it."""
    return int(signing_clock.now(remove_tzinfo=False).timestamp() * 1000)


def put(logs: Any, group: str, *messages: str, stream: str = "s", at: int | None = None) -> Any:
    """Put messages, a millisecond apart."""
    start = millis() if at is None else at
    events = [{"timestamp": start + index, "message": message} for index, message in enumerate(messages)]
    return logs.put_log_events(logGroupName=group, logStreamName=stream, logEvents=events)


def pages(logs: Any, group: str, stream: str = "s", **members: Any) -> Iterator[list[dict[str, Any]]]:
    """All pages of a stream from its head."""
    token: dict[str, str] = {}
    while True:
        page = logs.get_log_events(
            logGroupName=group, logStreamName=stream, **{"startFromHead": True, **members, **token}
        )
        if not page["events"]:
            return
        yield page["events"]
        token = {"nextToken": page["nextForwardToken"]}


def messages(logs: Any, group: str, stream: str = "s", **members: Any) -> list[str]:
    """All messages of a stream, the oldest first."""
    return [event["message"] for page in pages(logs, group, stream, **members) for event in page]


def filtered(logs: Any, group: str, pattern: str = "", **members: Any) -> list[str]:
    """All messages of a group that match."""
    paginator = logs.get_paginator("filter_log_events")
    found = paginator.paginate(logGroupName=group, filterPattern=pattern, **members)
    return [event["message"] for page in found for event in page["events"]]


def query(logs: Any, text: str, *groups: str, seconds: float = 20, **members: Any) -> dict[str, Any]:
    """The results of a query over the last hours."""
    now = millis() // 1000
    started = logs.start_query(
        logGroupNames=list(groups), startTime=now - 36_000, endTime=now + 36_000, queryString=text, **members
    )
    return wait_for(logs, started["queryId"], seconds)


def wait_for(logs: Any, query_id: str, seconds: float = 20) -> dict[str, Any]:
    """The results of a query once it has ended."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found: dict[str, Any] = logs.get_query_results(queryId=query_id)
        if found["status"] not in ("Running", "Scheduled"):
            return found
        time.sleep(0.01)
    raise AssertionError(f"query {query_id} did not end")


def rows(found: dict[str, Any]) -> list[dict[str, str]]:
    """Results without pointers."""
    return [{field["field"]: field["value"] for field in row if field["field"] != "@ptr"} for row in found["results"]]


def refusal(call: Callable[..., Any], **members: Any) -> tuple[str, str]:
    """Name and message of the error that a call answers with; empty if it works."""
    try:
        call(**members)
    except ClientError as error:
        return str(error.response["Error"]["Code"]), str(error.response["Error"].get("Message", ""))
    return "", ""


def files_with(folder: Path, *markers: bytes) -> Sequence[Path]:
    """Files below `folder` that hold one of the markers."""
    found = []
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            content = path.read_bytes()
            if any(marker in content for marker in markers):
                found.append(path)
    return found


def audit_copy(harness: Harness) -> AuditCopy:
    """What copies the trail of a harness into `/kmsd/audit`; it knows nothing of what was copied before."""
    world = harness.components.pipeline.dependencies
    trail = TrailFollower(harness.config.audit_dir, harness.components.sink)
    store, logs = harness.components.store, harness.components.logs
    return AuditCopy(trail, store, logs, world.arns, harness.config.account, partial(key_usage.record, store))


def copy_audit(harness: Harness, copy: AuditCopy | None = None) -> int:
    """Let it copy everything that was recorded so far; how many records."""
    harness.clock.advance(seconds=1)
    copy = copy or audit_copy(harness)
    try:
        return harness.run(copy.run_once())
    finally:
        copy.trail.unlock_chain(harness.components.sink.writer)


def copied(own: Harness) -> list[dict[str, Any]]:
    """Every record that `/kmsd/audit` shows."""
    return [json.loads(message) for message in filtered(own.client("logs"), AUDIT_GROUP)]


def ids(records: list[dict[str, Any]]) -> list[str]:
    """Their event ids."""
    return [str(one["eventID"]) for one in records]


def of_service(harness: Harness, since: int) -> list[dict[str, Any]]:
    """The service's calls on keys since a place in the trail."""
    return [record for record in harness.records()[since:] if record["userIdentity"]["type"] == "AWSService"]
