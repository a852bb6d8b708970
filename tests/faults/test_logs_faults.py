"""What happens to log events when the disk, the trail, the token or the store fails, or has failed after it worked."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kmsd.cloudwatch_logs.ports import SegmentsUnavailable
from kmsd.ports import AuditUnavailable, TokenUnavailable
from tests.support.harness import Harness, harness
from tests.support.log_service import (
    arn_of,
    fail_syncs,
    filtered,
    key_for,
    messages,
    millis,
    put,
    query,
    refusal,
    stream_for,
)

UNAVAILABLE = "ServiceUnavailableException"


@pytest.fixture(name="own")
def _own(tmp_path: Path) -> Iterator[Harness]:
    with harness(tmp_path) as found:
        yield found


def room_of(own: Harness) -> Any:
    """What the Logs side works with."""
    return own.components.logs


def test_no_record_no_event(own: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """An event whose call cannot be recorded is not stored; a data key whose use cannot be is not made."""
    logs, kms = own.client("logs"), own.client()
    key = key_for(kms, arn_of("/g"))
    stream_for(logs, "/g", kmsKeyId=key)
    put(logs, "/g", "before")

    async def fail(_: bytes) -> None:
        raise AuditUnavailable("no space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(own.components.sink, "append", fail)
        assert refusal(lambda **_: put(logs, "/g", "unrecorded"))[0] == UNAVAILABLE
        own.opened.loop.call_soon_threadsafe(room_of(own).keys.close)
        assert refusal(lambda **_: put(logs, "/g", "without a key"))[0] == UNAVAILABLE
        assert refusal(logs.filter_log_events, logGroupName="/g")[0] == UNAVAILABLE
        assert room_of(own).keys.cached == 0
    put(logs, "/g", "after")
    assert filtered(logs, "/g") == ["before", "after"]


@pytest.mark.parametrize("what", ["write", "room"])
def test_a_disk_that_fails_acknowledges_nothing(own: Harness, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    """The client is told to try again; when it does, the event is there once."""
    logs = own.client("logs")
    stream_for(logs, "/g")
    put(logs, "/g", "before")
    error = OSError(28, "No space left on device")
    segments = {os.fstat(one._file._descriptor).st_ino for one in room_of(own).segments._writers.values()}

    def full(descriptor: int, length: int) -> None:
        if os.fstat(descriptor).st_ino in segments:
            raise error
        os.truncate(descriptor, length)

    with monkeypatch.context() as patched:
        if what == "room":
            patched.setattr(os, "ftruncate", full)
        else:
            fail_syncs(patched, error, segments)
        code, message = refusal(lambda **_: put(logs, "/g", "again"))
        assert (code, message) == (UNAVAILABLE, "The service cannot complete the request.")
    put(logs, "/g", "again")
    assert filtered(logs, "/g") == ["before", "again"]
    own.restart()
    assert filtered(own.client("logs"), "/g") == ["before", "again"]


def test_a_token_that_is_away(own: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is stored in the clear for want of a key; what needs no token goes on."""
    logs = own.client("logs")
    stream_for(logs, "/g")

    async def away(*_: Any) -> bytes:
        raise TokenUnavailable("the token is away")

    with monkeypatch.context() as patched:
        for call in ("random", "encrypt", "decrypt"):
            patched.setattr(own.components.token, call, away)
        assert refusal(lambda **_: put(logs, "/g", "x"))[0] == UNAVAILABLE
        logs.create_log_stream(logGroupName="/g", logStreamName="t")
    put(logs, "/g", "y")
    assert filtered(logs, "/g") == ["y"]


def test_damage_is_told_and_costs_what_it_hit(own: Harness) -> None:
    """A flipped bit in sealed events: an error that names the time; everything else can be read."""
    logs, now = own.client("logs"), millis() - 10_000
    stream_for(logs, "/g")
    for index in range(3):
        put(logs, "/g", f"event {index}", at=now + index * 1000)
    own.stop()
    (path,) = own.config.logs_dir.rglob("*.seg")
    data = bytearray(path.read_bytes())
    data[-20] ^= 1
    path.write_bytes(data)
    own.start()
    logs = own.client("logs")
    code, message = refusal(logs.get_log_events, logGroupName="/g", logStreamName="s", startTime=now + 2000)
    assert code == UNAVAILABLE
    assert message == f"Log events between {now + 2000} and {now + 2000} are damaged in storage and cannot be read."
    assert messages(logs, "/g", endTime=now + 2000) == ["event 0", "event 1"]
    assert query(logs, "fields @message", "/g")["status"] == "Failed"
    put(logs, "/g", "event 3", at=now + 3000)
    assert messages(logs, "/g", startTime=now + 2001) == ["event 3"]


def test_frames_of_another_group_or_stream_are_not_taken(own: Harness) -> None:
    """Who can write to the disk cannot pass one group's events off as another's, nor change a header."""
    logs = own.client("logs")
    for group in ("/a", "/b"):
        stream_for(logs, group)
        put(logs, group, f"of {group}")
    reader = own.run(own.components.store.read())
    ids = [own.run(reader.log_group("000000000000", group)).group_id for group in ("/a", "/b")]  # type: ignore[union-attr]
    streams = [own.run(reader.log_stream(group_id, "s")).stream_id for group_id in ids]  # type: ignore[union-attr]
    own.stop()
    folders = [own.config.logs_dir / group_id.hex() for group_id in ids]
    (theirs,), (ours,) = (list(folder.glob("*.seg")) for folder in folders)
    for index in folders[1].glob("*.idx"):
        index.unlink()
    forged = theirs.read_bytes().replace(ids[0], ids[1])
    ours.write_bytes(forged)
    own.start()
    logs = own.client("logs")
    assert filtered(logs, "/b") == []  # the stream is not one of this group's
    own.stop()

    at = forged.index(streams[0])
    head = forged.rindex(b"\xa7kL\x1e", 0, at) + 4
    changed = bytearray(forged.replace(streams[0], streams[1]))
    end = at + 95
    while zlib.crc32(forged[head:end]) != int.from_bytes(forged[end : end + 4], "big"):
        end -= 1
    changed[end : end + 4] = zlib.crc32(bytes(changed[head:end])).to_bytes(4, "big")
    ours.write_bytes(changed)
    own.start()
    code, _ = refusal(own.client("logs").filter_log_events, logGroupName="/b")
    assert code == UNAVAILABLE


def test_results_that_cannot_be_stored_fail_the_query(own: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not stay running."""
    logs = own.client("logs")
    stream_for(logs, "/g")
    put(logs, "/g", "x")

    async def fail(*_: Any) -> None:
        raise SegmentsUnavailable("no space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(room_of(own).segments, "put_result", fail)
        assert query(logs, "limit 1", "/g")["status"] == "Failed"
    assert query(logs, "limit 1", "/g")["status"] == "Complete"


def test_stopping_a_query(own: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """It leaves no results, and cannot be stopped twice."""
    monkeypatch.setattr("kmsd.cloudwatch_logs.insights.runner.CANCEL_CHECK_INTERVAL", 1)
    monkeypatch.setattr("kmsd.cloudwatch_logs.insights.runner.SLICE_SECONDS", 0.0)
    logs, now = own.client("logs"), millis() - 100_000
    stream_for(logs, "/g")
    for batch in range(10):
        put(logs, "/g", *[f"{index}" for index in range(2_000)], at=now + batch)
    started = logs.start_query(logGroupName="/g", startTime=0, endTime=now, queryString="stats count(*)")["queryId"]
    assert logs.stop_query(queryId=started)["success"] is True
    found = logs.get_query_results(queryId=started)
    assert (found["status"], found["results"]) == ("Cancelled", [])
    assert refusal(logs.stop_query, queryId=started)[0] == "InvalidParameterException"
    assert refusal(logs.stop_query, queryId="none")[0] == "ResourceNotFoundException"
    (listed,) = logs.describe_queries(status="Cancelled")["queries"]
    assert (listed["queryId"], listed["queryString"]) == (started, "stats count(*)")
