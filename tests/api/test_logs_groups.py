"""Groups, streams, retention and tags of the Logs API, over the wire."""

from __future__ import annotations

import itertools
import zlib
from pathlib import Path
from typing import Any

import pytest

from kmsd.adapters.postgres.settings import DatabaseUrl
from kmsd.cloudwatch_logs import events
from tests.support.clients import ACCOUNT
from tests.support.harness import Harness, harness
from tests.support.log_service import (
    arn_of,
    copy_audit,
    files_with,
    filtered,
    messages,
    millis,
    put,
    query,
    refusal,
    stream_for,
)
from tests.support.postgres import cluster

NO_GROUP = ("ResourceNotFoundException", "The specified log group does not exist.")
NO_STREAM = ("ResourceNotFoundException", "The specified log stream does not exist.")


def test_a_group_is_described_as_it_was_made(harness: Harness) -> None:
    """Both forms of its ARN, class, times, bytes."""
    logs = harness.client("logs")
    before = millis()
    logs.create_log_group(logGroupName="/made", logGroupClass="INFREQUENT_ACCESS", tags={"a": "b"})
    (found,) = logs.describe_log_groups(logGroupNamePrefix="/made")["logGroups"]
    assert before - 1 <= found.pop("creationTime") <= millis()
    assert found == {
        "logGroupName": "/made",
        "arn": arn_of("/made") + ":*",
        "logGroupArn": arn_of("/made"),
        "logGroupClass": "INFREQUENT_ACCESS",
        "metricFilterCount": 0,
        "storedBytes": 0,
    }
    logs.create_log_stream(logGroupName="/made", logStreamName="s")
    put(logs, "/made", "12345", "67")
    assert logs.describe_log_groups(logGroupNamePrefix="/made")["logGroups"][0]["storedBytes"] == 7 + 2 * 26
    assert logs.list_tags_for_resource(resourceArn=arn_of("/made"))["tags"] == {"a": "b"}


def test_names_are_taken_once_and_some_never(harness: Harness) -> None:
    """ResourceAlreadyExistsException; `/kmsd/` is the daemon's own."""
    logs = harness.client("logs")
    stream_for(logs, "/taken")
    assert refusal(logs.create_log_group, logGroupName="/taken")[0] == "ResourceAlreadyExistsException"
    again = {"logGroupName": "/taken", "logStreamName": "s"}
    assert refusal(logs.create_log_stream, **again)[0] == "ResourceAlreadyExistsException"
    for name in ("/kmsd/audit", "/kmsd/x", "aws/x"):
        assert refusal(logs.create_log_group, logGroupName=name)[0] == "InvalidParameterException"
    for members in ({"logGroupClass": "DELIVERY"}, {"deletionProtectionEnabled": True}):
        assert refusal(logs.create_log_group, logGroupName="/x", **members)[0] == "InvalidParameterException"


def test_what_is_not_there_is_not_found(harness: Harness) -> None:
    """Each operation that needs a group, or a stream of it."""
    logs = harness.client("logs")
    stream_for(logs, "/there")
    event = {"logEvents": [{"timestamp": millis(), "message": "x"}]}
    for act, members in (
        (logs.delete_log_group, {}),
        (logs.create_log_stream, {"logStreamName": "s"}),
        (logs.delete_log_stream, {"logStreamName": "s"}),
        (logs.describe_log_streams, {}),
        (logs.put_log_events, {"logStreamName": "s", **event}),
        (logs.get_log_events, {"logStreamName": "s"}),
        (logs.filter_log_events, {}),
        (logs.put_retention_policy, {"retentionInDays": 1}),
        (logs.delete_retention_policy, {}),
        (logs.tag_log_group, {"tags": {"a": "b"}}),
        (logs.untag_log_group, {"tags": ["a"]}),
        (logs.list_tags_log_group, {}),
        (logs.start_query, {"startTime": 0, "endTime": 1, "queryString": "limit 1"}),
    ):
        assert refusal(act, logGroupName="/nowhere", **members) == NO_GROUP
    for act, members in (
        (logs.delete_log_stream, {"logStreamName": "x"}),
        (logs.put_log_events, {"logStreamName": "x", **event}),
        (logs.get_log_events, {"logStreamName": "x"}),
        (logs.filter_log_events, {"logStreamNames": ["s", "x"]}),
    ):
        assert refusal(act, logGroupName="/there", **members) == NO_STREAM


def test_groups_come_in_pages_by_name(harness: Harness) -> None:
    """By prefix, by part of the name, by identifier; a token continues, and is of no use elsewhere."""
    logs = harness.client("logs")
    names = [f"/pages/{letter}" for letter in "abcdefg"]
    for name in reversed(names):
        logs.create_log_group(logGroupName=name)

    def found(**members: Any) -> list[str]:
        pages = logs.get_paginator("describe_log_groups").paginate(**members)
        return [group["logGroupName"] for page in pages for group in page["logGroups"]]

    assert found(logGroupNamePrefix="/pages/", PaginationConfig={"PageSize": 3}) == names
    assert found(logGroupNamePattern="ages/c") == ["/pages/c"]
    assert found(logGroupNamePattern="AGES/c") == []
    assert found(logGroupNamePrefix="/pages/", logGroupClass="INFREQUENT_ACCESS") == []
    identifiers = ["/pages/a", arn_of("/pages/b"), "/pages/c", "/pages/none"]
    assert found(logGroupIdentifiers=identifiers) == names[:3]
    token = logs.describe_log_groups(logGroupNamePrefix="/pages/", limit=1)["nextToken"]
    for members in ({"nextToken": token}, {"nextToken": "abc", "logGroupNamePrefix": "/pages/"}):
        assert refusal(logs.describe_log_groups, **members)[0] == "InvalidParameterException"
    both = {"logGroupNamePrefix": "a", "logGroupNamePattern": "b"}
    assert refusal(logs.describe_log_groups, **both)[0] == "InvalidParameterException"


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("order", ["LogStreamName", "LastEventTime"])
def test_streams_come_in_pages_by_name_or_last_event(harness: Harness, order: str, *, descending: bool) -> None:
    """Both orders, both directions; with first, last and ingestion times."""
    logs = harness.client("logs")
    group, now = f"/streams/{order}/{descending}", millis() - 10_000
    logs.create_log_group(logGroupName=group)
    for index, name in enumerate("fdbace"):
        logs.create_log_stream(logGroupName=group, logStreamName=name)
        if index:
            put(logs, group, "first", "last", stream=name, at=now + index)
    pages = logs.get_paginator("describe_log_streams").paginate(
        logGroupName=group, orderBy=order, descending=descending, PaginationConfig={"PageSize": 2}
    )
    streams = [stream for page in pages for stream in page["logStreams"]]
    expected = sorted("fdbace") if order == "LogStreamName" else list("fdbace")
    assert [stream["logStreamName"] for stream in streams] == (expected[::-1] if descending else expected)
    of_d = next(stream for stream in streams if stream["logStreamName"] == "d")
    assert (of_d["firstEventTimestamp"], of_d["lastEventTimestamp"]) == (now + 1, now + 2)
    assert now < of_d["lastIngestionTime"] <= millis()
    assert of_d["arn"] == f"{arn_of(group)}:log-stream:d"
    assert "firstEventTimestamp" not in next(stream for stream in streams if stream["logStreamName"] == "f")


def test_streams_by_prefix(harness: Harness) -> None:
    """By name only: by time there is no prefix."""
    logs = harness.client("logs")
    stream_for(logs, "/prefix", "web/1")
    for name in ("web/2", "db/1"):
        logs.create_log_stream(logGroupName="/prefix", logStreamName=name)
    found = logs.describe_log_streams(logGroupIdentifier=arn_of("/prefix"), logStreamNamePrefix="web/")["logStreams"]
    assert [stream["logStreamName"] for stream in found] == ["web/1", "web/2"]
    members = {"logStreamNamePrefix": "web/", "orderBy": "LastEventTime"}
    assert refusal(logs.describe_log_streams, logGroupName="/prefix", **members)[0] == "InvalidParameterException"


def test_tags_in_both_forms(harness: Harness) -> None:
    """By ARN and, of old, by name; reserved and malformed ones are refused, and a fifty-first."""
    logs = harness.client("logs")
    stream_for(logs, "/tags")
    arn = arn_of("/tags")
    logs.tag_resource(resourceArn=arn, tags={"a": "1", "b": ""})
    logs.tag_log_group(logGroupName="/tags", tags={"a": "2", "c": "3"})
    assert logs.list_tags_for_resource(resourceArn=arn)["tags"] == {"a": "2", "b": "", "c": "3"}
    logs.untag_resource(resourceArn=arn, tagKeys=["a", "none"])
    logs.untag_log_group(logGroupName="/tags", tags=["b"])
    assert logs.list_tags_log_group(logGroupName="/tags")["tags"] == {"c": "3"}
    for tags in ({"aws:x": "y"}, {"a!": "b"}, {"a": "b\x00"}):
        assert refusal(logs.tag_resource, resourceArn=arn, tags=tags)[0] == "InvalidParameterException"
    logs.tag_resource(resourceArn=arn, tags={f"k{index}": "v" for index in range(49)})
    assert refusal(logs.tag_resource, resourceArn=arn, tags={"one": "more"})[0] == "TooManyTagsException"
    assert len(logs.list_tags_for_resource(resourceArn=arn)["tags"]) == 50


def test_retention_takes_only_aws_values(harness: Harness) -> None:
    """1, 3, 5 … 3653 days."""
    logs = harness.client("logs")
    stream_for(logs, "/retention/values")
    for days in (0, 2, 3654):
        code, message = refusal(logs.put_retention_policy, logGroupName="/retention/values", retentionInDays=days)
        assert code == "InvalidParameterException"
        assert message.startswith(f"1 validation error detected: Value '{days}' at 'retentionInDays'")
    logs.put_retention_policy(logGroupName="/retention/values", retentionInDays=3653)
    (found,) = logs.describe_log_groups(logGroupNamePrefix="/retention/values")["logGroups"]
    assert found["retentionInDays"] == 3653
    logs.delete_retention_policy(logGroupName="/retention/values")
    (found,) = logs.describe_log_groups(logGroupNamePrefix="/retention/values")["logGroups"]
    assert "retentionInDays" not in found


@pytest.fixture(name="own")
def _own(tmp_path: Path) -> Any:
    # Objects, for a key ceremony is impossible while the other daemon of this process is logged in.
    with harness(tmp_path, custody="object") as found:
        yield found


def stored_bytes(own: Harness) -> int:
    """Bytes in all segments."""
    if own.config.store.url:
        database = DatabaseUrl.parse(own.config.store.url).database
        return int(cluster().run_sql("SELECT coalesce(sum(length(sealed)), 0) FROM log_frame", database))
    return sum(path.stat().st_size for path in own.config.logs_dir.rglob("*.seg"))


def test_retention_hides_at_once_and_then_deletes(own: Harness) -> None:
    """From the instant on nothing older is shown; the job removes the segments, and what is younger stays."""
    logs = own.client("logs")
    stream_for(logs, "/retention")
    put(logs, "/retention", "x" * 100_000)
    own.clock.advance(days=2)
    put(logs, "/retention", "young")
    assert len(filtered(logs, "/retention")) == 2
    logs.put_retention_policy(logGroupName="/retention", retentionInDays=1)
    assert filtered(logs, "/retention") == ["young"]
    assert messages(logs, "/retention") == ["young"]
    size = stored_bytes(own)
    own.tick()
    assert stored_bytes(own) < size
    assert filtered(logs, "/retention") == ["young"]
    own.clock.advance(days=2, hours=2)
    assert filtered(logs, "/retention") == []
    own.tick()
    assert stored_bytes(own) == 0
    put(logs, "/retention", "again")
    assert filtered(logs, "/retention") == ["again"]


def test_retention_takes_old_frames_out_of_young_segments(own: Harness) -> None:
    """Events that came in late lie beside young ones: a day past their time the segment is written anew."""
    logs = own.client("logs")
    stream_for(logs, "/late")
    logs.put_retention_policy(logGroupName="/late", retentionInDays=14)
    old = millis() - 12 * 86_400_000
    put(logs, "/late", "old" * 1000, at=old)
    put(logs, "/late", *[f"young {index}" for index in range(5)])
    own.clock.advance(days=4)
    own.tick()
    names = [path.name for path in own.config.logs_dir.rglob("*.seg")]
    assert len(names) == 1
    assert names[0].endswith("-1.seg")
    assert filtered(logs, "/late") == [f"young {index}" for index in range(5)]
    own.restart()
    assert filtered(own.client("logs"), "/late") == [f"young {index}" for index in range(5)]


def test_a_deleted_group_is_gone_with_everything(own: Harness) -> None:
    """Its folder too; and a new group of the same name is empty."""
    logs = own.client("logs")
    stream_for(logs, "/deleted", tags={"a": "b"})
    put(logs, "/deleted", "x")
    assert stored_bytes(own) > 0
    logs.delete_log_group(logGroupName="/deleted")
    assert stored_bytes(own) == 0
    assert refusal(logs.filter_log_events, logGroupName="/deleted") == NO_GROUP
    stream_for(logs, "/deleted")
    assert filtered(logs, "/deleted") == []
    assert logs.list_tags_for_resource(resourceArn=arn_of("/deleted"))["tags"] == {}
    own.clock.advance(hours=2)
    own.tick()
    reader = own.run(own.components.store.read())
    assert own.run(reader.dead_log_groups(own.clock.now())) == []


def test_a_deleted_stream_is_gone_and_its_neighbours_stay(own: Harness) -> None:
    """At once to readers; from the segments when they are finished and the job has come by."""
    logs = own.client("logs")
    stream_for(logs, "/streams", "one")
    logs.create_log_stream(logGroupName="/streams", logStreamName="two")
    for stream, index in itertools.product(("one", "two"), range(3)):
        put(logs, "/streams", f"{stream} {index}" + "x" * 1000, stream=stream)
    logs.delete_log_stream(logGroupName="/streams", logStreamName="one")
    kept = [f"two {index}" + "x" * 1000 for index in range(3)]
    assert filtered(logs, "/streams") == kept
    logs.create_log_stream(logGroupName="/streams", logStreamName="one")
    assert messages(logs, "/streams", "one") == []
    size = stored_bytes(own)
    own.clock.advance(hours=2)
    own.tick()
    assert stored_bytes(own) < size
    assert filtered(logs, "/streams") == kept
    reader = own.run(own.components.store.read())
    assert own.run(reader.dead_log_streams()) == {}


def test_groups_are_their_accounts(harness: Harness) -> None:
    """Another account sees none of them, and can have its own of the same name."""
    logs = harness.client("logs")
    stream_for(logs, "/mine")
    put(logs, "/mine", "mine alone")
    policy = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "logs:*", "Resource": "*"}]}
    other = harness.client("logs", harness.user(policy, account="111111111111"))
    assert refusal(other.filter_log_events, logGroupName="/mine") == NO_GROUP
    assert refusal(other.filter_log_events, logGroupIdentifier=arn_of("/mine")) == NO_GROUP
    assert other.describe_log_groups()["logGroups"] == []
    stream_for(other, "/mine")
    assert filtered(other, "/mine") == []
    assert other.describe_log_groups()["logGroups"][0]["arn"] == arn_of("/mine").replace(ACCOUNT, "111111111111") + ":*"


def test_no_event_text_in_the_data_directory(own: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not in segments, results, database, write-ahead log or trail; whatever is done with it."""
    compress = zlib.compress
    # Stored, not deflated: what is not to be found must be hidden by its sealing, and not by compression.
    monkeypatch.setattr(zlib, "compress", lambda data, _=0, wbits=zlib.MAX_WBITS: compress(data, 0, wbits))
    monkeypatch.setattr(events, "LEVEL", 0)
    logs = own.client("logs")
    stream_for(logs, "/scanned")
    marker = "MARKER-7f3a9c"
    put(logs, "/scanned", *[f"{marker} {index}" for index in range(200)])
    put(logs, "/scanned", marker + "x" * 100_000)
    assert len(filtered(logs, "/scanned", marker)) == 201
    refusal(logs.filter_log_events, logGroupName="/scanned", filterPattern=f'"{marker}')
    refusal(logs.filter_log_events, logGroupName="/scanned", filterPattern=f"{{ $.{marker} }}")
    assert len(query(logs, f"filter @message like '{marker} 1' | fields @message", "/scanned")["results"]) == 111
    now = millis() // 1000
    span = {"startTime": now - 100, "endTime": now + 100, "logGroupName": "/scanned"}
    refusal(logs.start_query, queryString=f"frobnicate {marker}", **span)
    bad = [{"timestamp": now * 1000, "message": marker}, {"timestamp": 5, "message": marker}]
    refusal(logs.put_log_events, logGroupName="/scanned", logStreamName="s", logEvents=bad)
    copy_audit(own)
    for running in (True, False):
        if not running:
            own.stop()
        assert files_with(own.config.data_dir, marker.encode()) == []
        # What may be found is: so it is looked for in the right places.
        kinds = {path.suffix for path in files_with(own.config.data_dir, b"/scanned")}
        assert kinds >= {".sqlite-wal" if running else ".sqlite", ".seg", ".trail"}
        assert any((own.config.logs_dir / "results").iterdir())
    own.start()
    assert len(filtered(own.client("logs"), "/scanned", marker)) == 201
