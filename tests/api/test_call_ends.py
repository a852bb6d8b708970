"""What is left of a call in memory when it has been answered: nothing that waits for the garbage collector."""

from __future__ import annotations

import asyncio
import gc
import tracemalloc
from pathlib import Path

import pytest

from kmsd.adapters.audit_trail.sink import TrailSink
from kmsd.operations.declaration import Call
from tests.support.harness import Harness
from tests.support.log_service import millis, stream_for


def test_a_call_ends_with_its_answer(harness: Harness) -> None:
    """Bodies of log events are 100 KB to 1 MB: a thousand of them in reference cycles would be a process's memory."""
    logs, kms = harness.client("logs"), harness.client()
    stream_for(logs, "/ends")
    key = kms.create_key()["KeyMetadata"]["KeyId"]
    gc.collect()
    gc.disable()
    try:
        for _ in range(5):
            events = [{"timestamp": millis(), "message": "x"}]
            logs.put_log_events(logGroupName="/ends", logStreamName="s", logEvents=events)
            logs.get_log_events(logGroupName="/ends", logStreamName="s")
            kms.encrypt(KeyId=key, Plaintext=b"x")
            kms.update_key_description(KeyId=key, Description="x")
        harness.run(asyncio.sleep(0))
        left = [one for one in gc.get_objects() if isinstance(one, Call)]
    finally:
        gc.enable()
    assert left == []


def test_a_call_that_waits_for_the_disk_does_not_keep_its_body(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the body nor its events: of a batch there is then what is to be stored, and where it was encoded."""
    stream_for(harness.client("logs"), "/waits")
    append, size = TrailSink.append, 700_000
    kept: list[set[str]] = []

    async def look(sink: TrailSink, record: bytes) -> None:
        if b'"PutLogEvents"' in record:
            traces = [trace for trace in tracemalloc.take_snapshot().traces if trace.size >= size]
            places = [Path(trace.traceback[0].filename) for trace in traces]
            kept.append({f"{place.parent.name}/{place.name}" for place in places})
        await append(sink, record)

    monkeypatch.setattr(TrailSink, "append", look)
    logs = harness.client("logs")
    tracemalloc.start()
    try:
        for _ in range(2):
            events = [{"timestamp": millis(), "message": "x" * size}]
            logs.put_log_events(logGroupName="/waits", logStreamName="s", logEvents=events)
    finally:
        tracemalloc.stop()
    assert len(kept) == 2
    # The client, which runs in this process; then the buffer for encoding, and the encrypted frame.
    client = {"api/test_call_ends.py", "botocore/serialize.py"}
    assert kept[1] == {*client, "cloudwatch_logs/events.py", "cloudwatch_logs/frame_codec.py"}
