"""Putting and reading events: the rules of a batch, order, pages, patterns."""

from __future__ import annotations

import random
from typing import Any

import pytest

from tests.support.harness import Harness
from tests.support.log_service import arn_of, filtered, messages, millis, pages, put, refusal, stream_for

HOUR, DAY = 3_600_000, 86_400_000


@pytest.fixture(name="logs", scope="module")
def _logs(harness: Harness) -> Any:
    return harness.client("logs")


def put_events(logs: Any, group: str, *events: tuple[int, str]) -> dict[str, Any]:
    """Put events as they are."""
    batch = [{"timestamp": timestamp, "message": message} for timestamp, message in events]
    answer: dict[str, Any] = logs.put_log_events(logGroupName=group, logStreamName="s", logEvents=batch)
    return answer


def test_a_batch_must_be_in_order_and_within_a_day(logs: Any) -> None:
    """AWS's words; nothing of a refused batch is stored."""
    group, now = "/batch/order", millis()
    stream_for(logs, group)
    assert refusal(lambda **_: put_events(logs, group, (now, "a"), (now - 1, "b"))) == (
        "InvalidParameterException",
        "Log events in a single PutLogEvents request must be in chronological order.",
    )
    assert refusal(lambda **_: put_events(logs, group, (now - DAY - 1, "a"), (now, "b"))) == (
        "InvalidParameterException",
        "The batch of log events in a single PutLogEvents request cannot span more than 24 hours.",
    )
    put_events(logs, group, (now - DAY, "a"), (now, "b"), (now, "c"))
    assert messages(logs, group) == ["a", "b", "c"]


def test_a_batch_has_a_size(logs: Any) -> None:
    """1 MiB with 26 bytes for each event; 10 000 events."""
    group, now = "/batch/size", millis()
    stream_for(logs, group)
    put_events(logs, group, (now, "x" * (1_048_576 - 26)))
    code, message = refusal(lambda **_: put_events(logs, group, (now, "x" * (1_048_576 - 25))))
    assert (code, message) == (
        "InvalidParameterException",
        "Upload too large: 1048577 bytes exceeds limit of 1048576",
    )
    put_events(logs, group, *[(now, "x") for _ in range(10_000)])
    code, message = refusal(lambda **_: put_events(logs, group, *[(now, "x") for _ in range(10_001)]))
    assert code == "InvalidParameterException"
    assert message == (
        "1 validation error detected: Value at 'logEvents' failed to satisfy constraint: "
        "Member must have length less than or equal to 10000"
    )
    assert len(messages(logs, group)) == 10_001


def test_too_old_expired_and_too_new_events_are_left_out(logs: Any) -> None:
    """The others are taken; the answer says where the rejected ones begin and end."""
    group, now = "/batch/age", millis()
    stream_for(logs, group)
    answer = put_events(
        logs, group, (now - 15 * DAY, "old"), (now - 14 * DAY - 1, "old"), (now - 1, "taken"), (now, "t")
    )
    assert answer["rejectedLogEventsInfo"] == {"tooOldLogEventEndIndex": 2}
    answer = put_events(logs, group, (now, "now"), (now + 2 * HOUR + 60_000, "new"), (now + 3 * HOUR, "new"))
    assert answer["rejectedLogEventsInfo"] == {"tooNewLogEventStartIndex": 1}
    logs.put_retention_policy(logGroupName=group, retentionInDays=3)
    answer = put_events(logs, group, (now - 15 * DAY, "old"), (now - 4 * DAY, "expired"), (now, "kept"))
    assert answer["rejectedLogEventsInfo"] == {"tooOldLogEventEndIndex": 1, "expiredLogEventEndIndex": 2}
    answer = put_events(logs, group, (now - 15 * DAY, "old"), (now + 5 * HOUR, "new"))
    assert answer["rejectedLogEventsInfo"] == {
        "tooOldLogEventEndIndex": 1,
        "expiredLogEventEndIndex": 1,
        "tooNewLogEventStartIndex": 1,
    } or answer["rejectedLogEventsInfo"] == {"tooOldLogEventEndIndex": 1, "tooNewLogEventStartIndex": 1}
    assert "nextSequenceToken" in answer
    assert messages(logs, group) == ["taken", "t", "now", "kept"]


def test_sequence_tokens_are_taken_and_not_looked_at(logs: Any) -> None:
    """PutLogEvents: "actions are always accepted and never return InvalidSequenceTokenException"."""
    group = "/batch/token"
    stream_for(logs, group)
    event = [{"timestamp": millis(), "message": "x"}]
    for token in (
        "1",
        "nonsense",
        logs.put_log_events(logGroupName=group, logStreamName="s", logEvents=event)["nextSequenceToken"],
    ):
        logs.put_log_events(logGroupName=group, logStreamName="s", logEvents=event, sequenceToken=token)
    assert len(messages(logs, group)) == 4


def test_an_entity_is_refused_by_name_and_the_events_are_taken(logs: Any) -> None:
    """In the way that the API has for it."""
    group = "/batch/entity"
    stream_for(logs, group)
    answer = logs.put_log_events(
        logGroupName=group,
        logStreamName="s",
        logEvents=[{"timestamp": millis(), "message": "x"}],
        entity={"keyAttributes": {"Type": "Service", "Name": "n"}},
    )
    assert answer["rejectedEntityInfo"] == {"errorType": "UnsupportedLogGroupType"}
    assert messages(logs, group) == ["x"]


def test_text_comes_back_as_it_was(logs: Any) -> None:
    """Every plane of Unicode, control characters, line breaks, JSON."""
    group = "/text"
    stream_for(logs, group)
    texts = ["ü€😀\U0010fffd", "a\nb\r\n\tc", "\x00\x01", '{"a": "\\u0000"}', " ", "%s {} $x"]
    put(logs, group, *texts)
    assert messages(logs, group) == texts


def test_events_are_ordered_by_time_then_ingestion(logs: Any) -> None:
    """Whatever the order of the batches; pages cut anywhere; both directions agree."""
    group, now = "/order", millis() - HOUR
    stream_for(logs, group)
    rng = random.Random(7)  # noqa: S311 (the same batches each time)
    expected: list[tuple[int, int, str]] = []
    for batch in range(60):
        times = sorted(rng.randrange(0, 200) for _ in range(rng.randrange(1, 30)))
        events = [(now + time, f"{batch}-{index}") for index, time in enumerate(times)]
        put_events(logs, group, *events)
        expected += [(time, batch, text) for time, text in events]
    expected.sort(key=lambda event: event[:2])
    in_order = [text for _, _, text in expected]
    for limit in (7, 100, 10_000):
        assert messages(logs, group, limit=limit) == in_order
        assert filtered(logs, group, PaginationConfig={"PageSize": limit}) == in_order
    backwards: list[str] = []
    token: dict[str, str] = {}
    while True:
        page = logs.get_log_events(logGroupName=group, logStreamName="s", limit=11, **token)
        if not page["events"]:
            break
        backwards = [event["message"] for event in page["events"]] + backwards
        token = {"nextToken": page["nextBackwardToken"]}
    assert backwards == in_order
    latest_first = filtered(logs, group, startFromHead=False, startTime=now, PaginationConfig={"PageSize": 13})
    assert latest_first == in_order[::-1]


def test_tokens_stop_at_the_end_and_go_on_when_more_comes(logs: Any) -> None:
    """GetLogEvents: "If you have reached the end of the stream, it returns the same token you passed in"."""
    group = "/tokens"
    stream_for(logs, group)
    empty = logs.get_log_events(logGroupName=group, logStreamName="s", startFromHead=True)
    put(logs, group, "a", "b")
    page = logs.get_log_events(logGroupName=group, logStreamName="s", nextToken=empty["nextForwardToken"])
    assert [event["message"] for event in page["events"]] == ["a", "b"]
    end = logs.get_log_events(logGroupName=group, logStreamName="s", nextToken=page["nextForwardToken"])
    assert (end["events"], end["nextForwardToken"]) == ([], page["nextForwardToken"])
    put(logs, group, "c", at=millis() + 1000)
    more = logs.get_log_events(logGroupName=group, logStreamName="s", nextToken=end["nextForwardToken"])
    assert [event["message"] for event in more["events"]] == ["c"]
    back = logs.get_log_events(logGroupName=group, logStreamName="s", nextToken=more["nextBackwardToken"])
    assert [event["message"] for event in back["events"]] == ["a", "b"]
    for token in ("x", "f/1", "g/" + "0" * 56):
        members = {"logGroupName": group, "logStreamName": "s", "nextToken": token}
        assert refusal(logs.get_log_events, **members)[0] == "InvalidParameterException"


def test_time_bounds(logs: Any) -> None:
    """GetLogEvents excludes endTime, FilterLogEvents includes it; both include startTime."""
    group, now = "/bounds", millis() - HOUR
    stream_for(logs, group)
    put_events(logs, group, *[(now + index, str(index)) for index in range(10)])
    put_events(logs, group, *[(now + index, f"{index}b") for index in range(10)])
    bounds = {"startTime": now + 3, "endTime": now + 5}
    assert messages(logs, group, **bounds) == ["3", "3b", "4", "4b"]
    assert filtered(logs, group, **bounds) == ["3", "3b", "4", "4b", "5", "5b"]
    assert messages(logs, group, startTime=now + 10) == []


def test_a_page_holds_a_mebibyte(logs: Any) -> None:
    """Of text and overhead, or 10 000 events; one event always fits."""
    group, now = "/pages/size", millis()
    stream_for(logs, group)
    for index in range(5):
        put_events(logs, group, *[(now + index, "x" * 100_000) for _ in range(10)])
    sizes = [len(page) for page in pages(logs, group)]
    assert sizes == [10] * 5
    assert len(logs.get_log_events(logGroupName=group, logStreamName="s")["events"]) == 10


def test_filter_interleaves_streams_and_can_choose_them(logs: Any) -> None:
    """By name, by prefix; with event ids that are unique."""
    group, now = "/interleaved", millis() - HOUR
    stream_for(logs, group, "a1")
    for name in ("a2", "b1"):
        logs.create_log_stream(logGroupName=group, logStreamName=name)
    for index, name in enumerate(["a1", "a2", "b1"] * 4):
        put(logs, group, f"{name}-{index}", stream=name, at=now + index)
    found = logs.filter_log_events(logGroupIdentifier=arn_of(group))["events"]
    assert [event["message"] for event in found] == [
        f"{event['logStreamName']}-{index}" for index, event in enumerate(found)
    ]
    assert len({event["eventId"] for event in found}) == 12
    assert filtered(logs, group, logStreamNames=["a1", "b1"]) == [
        f"{n}-{i}" for i, n in enumerate(["a1", "a2", "b1"] * 4) if n != "a2"
    ]
    assert len(filtered(logs, group, logStreamNamePrefix="a")) == 8
    both = {"logStreamNames": ["a1"], "logStreamNamePrefix": "a"}
    assert refusal(logs.filter_log_events, logGroupName=group, **both)[0] == "InvalidParameterException"
    assert (
        refusal(logs.filter_log_events, logGroupName=group, filterPattern="{ $.a = }")[0] == "InvalidParameterException"
    )
    assert refusal(logs.filter_log_events)[0] == "InvalidParameterException"


def test_a_search_that_finds_little_ends_with_a_token(logs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """One call does not hold up the others; the pages that follow find the rest."""
    monkeypatch.setattr("kmsd.cloudwatch_logs.operations.filter_log_events.WORK_SECONDS", -1.0)
    group, now = "/slowly", millis() - HOUR
    stream_for(logs, group)
    for batch in range(40):
        put_events(logs, group, *[(now + batch * 10 + index, f"{batch}.{index}") for index in range(10)])
    first = logs.filter_log_events(logGroupName=group, filterPattern="39.5")
    assert first["events"] == []
    assert "nextToken" in first
    assert filtered(logs, group, "39.5") == ["39.5"]


def test_events_survive_a_restart(harness: Harness) -> None:
    """Segments that were finished, and their summaries."""
    logs = harness.client("logs")
    group = "/restart"
    stream_for(logs, group)
    put(logs, group, "a")
    before = logs.describe_log_streams(logGroupName=group)["logStreams"]
    harness.restart()
    logs = harness.client("logs")
    assert logs.describe_log_streams(logGroupName=group)["logStreams"] == before
    put(logs, group, "b")
    assert messages(logs, group) == ["a", "b"]


def test_many_segments_read_as_one(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """A group whose segments are small: order and pages are the same."""
    monkeypatch.setattr("kmsd.cloudwatch_logs.segments.writer.SEGMENT_BYTES", 2_000)
    logs = harness.client("logs")
    group, now = "/segments", millis() - HOUR
    stream_for(logs, group)
    rng = random.Random(3)  # noqa: S311 (the same batches each time)
    starts = [rng.randrange(0, 1000) for _ in range(60)]
    for batch, start in enumerate(starts):
        put_events(
            logs,
            group,
            *[(now + start + index * 10, f"{batch:02}.{index:02}" + "x" * rng.randrange(50)) for index in range(20)],
        )
    found = [(event["timestamp"], event["message"][:5]) for page in pages(logs, group, limit=77) for event in page]
    expected = sorted(
        (now + start + index * 10, f"{batch:02}.{index:02}")
        for batch, start in enumerate(starts)
        for index in range(20)
    )
    assert sorted(found) == expected
    assert [time for time, _ in found] == [time for time, _ in expected]
    folders = [path for path in harness.config.logs_dir.iterdir() if len(list(path.glob("*.idx"))) > 5]
    assert len(folders) == 1
