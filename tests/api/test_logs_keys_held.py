"""Data keys and opened events are held for a bounded time and size, and not longer than their key may be used."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.harness import Harness
from tests.support.log_service import (
    arn_of,
    filtered,
    key_for,
    messages,
    millis,
    of_service,
    put,
    refusal,
    stream_for,
)


def test_a_data_key_is_not_held_once_its_key_is_disabled(harness: Harness) -> None:
    """At the latest when the next request finds it so; and after ten seconds without one."""
    logs, kms = harness.client("logs"), harness.client()
    group = "/held"
    key = key_for(kms, arn_of(group))
    stream_for(logs, group, kmsKeyId=key)
    keys = harness.components.logs
    assert keys is not None

    def held() -> int:
        return sum(one.wrapped.kms_key == key for one in keys.keys._opening.values())

    put(logs, group, "x")
    assert held() == 1
    kms.disable_key(KeyId=key)
    assert refusal(lambda **_: put(logs, group, "y"))[0] == "AccessDeniedException"
    assert held() == 0
    kms.enable_key(KeyId=key)
    put(logs, group, "z")
    assert held() == 1
    for one in list(keys.keys._opening.values()):
        one.made_at -= 10.0
    harness.opened.loop.call_soon_threadsafe(keys.keys._evict)
    harness.tick()
    assert keys.keys.cached == 0
    assert filtered(logs, group) == ["x", "z"]


def test_a_data_key_is_bounded_in_bytes(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond its bytes another is made."""
    monkeypatch.setattr("kmsd.cloudwatch_logs.data_keys.MAX_BYTES", 3_000)
    logs, kms = harness.client("logs"), harness.client()
    group = "/bounded"
    key = key_for(kms, arn_of(group))
    stream_for(logs, group, kmsKeyId=key)
    since = len(harness.records())
    for _ in range(5):
        put(logs, group, "x" * 1_400)
    made = [record for record in of_service(harness, since) if record["eventName"] == "GenerateDataKey"]
    assert len(made) == 3


def test_what_was_opened_a_moment_ago_ends_with_its_key(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page is opened once for all its readers; once its key is disabled, or its data key gone, nothing is left."""
    logs, kms = harness.client("logs"), harness.client()
    group, room = "/opened", harness.components.logs
    assert room is not None

    async def drop() -> int:
        room.keys.close()
        return room.opened.size

    assert harness.run(drop()) == 0
    key = key_for(kms, arn_of(group))
    stream_for(logs, group, kmsKeyId=key)
    put(logs, group, "told to all")
    reads = 0
    read = room.segments.read

    async def counted(*arguments: Any) -> Any:
        nonlocal reads
        reads += 1
        return await read(*arguments)

    monkeypatch.setattr(room.segments, "read", counted)
    assert [messages(logs, group) for _ in range(3)] == [["told to all"]] * 3
    assert (reads, room.opened.size > 0) == (1, True)

    kms.disable_key(KeyId=key)
    assert refusal(logs.get_log_events, logGroupName=group, logStreamName="s")[0] == "AccessDeniedException"
    assert room.opened.size == 0
    kms.enable_key(KeyId=key)
    assert messages(logs, group) == ["told to all"]
    assert (reads, room.opened.size > 0) == (2, True)

    assert harness.run(drop()) == 0
    assert messages(logs, group) == ["told to all"]
    assert reads == 3


def test_little_is_kept_of_what_was_opened(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """However much is read."""
    logs, group, room = harness.client("logs"), "/opened/much", harness.components.logs
    assert room is not None
    harness.opened.loop.call_soon_threadsafe(room.keys.close)
    monkeypatch.setattr("kmsd.cloudwatch_logs.opened_frames.MAX_BYTES", 20_000)
    stream_for(logs, group)
    told = [f"{number} {'x' * 1_000}" for number in range(20)]
    for number, text in enumerate(told):
        put(logs, group, text, at=millis() + number)
    for _ in range(2):
        assert messages(logs, group) == told
    assert 0 < room.opened.size <= 20_000
