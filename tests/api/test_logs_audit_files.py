"""The copy of the audit trail, of files that no process writes any more."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from kmsd.adapters.audit_trail.sink import SinkSettings, TrailSink
from kmsd.cloudwatch_logs import frame_codec
from kmsd.cloudwatch_logs.groups import AUDIT_GROUP
from kmsd.cloudwatch_logs.ports import SegmentsUnavailable
from tests.support.audit_trail import record
from tests.support.harness import Harness, harness
from tests.support.log_service import copied, copy_audit, filtered, ids


@pytest.fixture(name="own")
def _own(tmp_path: Path) -> Iterator[Harness]:
    with harness(tmp_path) as found:
        yield found


def test_many_records_over_several_files(own: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a chain that nobody writes any more: batch by batch, file by file, none doubled when it is broken off."""

    async def fill() -> None:
        settings = SinkSettings(file_bytes=100_000)
        sink = await TrailSink.open(own.config.audit_dir, "cli", None, settings)
        for begin in range(0, 3_000, 100):
            await asyncio.gather(
                *(sink.append(record(begin + index, eventID=f"{begin + index}")) for index in range(100))
            )
        await sink.close()

    own.run(fill())
    assert len(list(own.config.audit_dir.glob("cli.*.trail"))) >= 4
    seal, calls = frame_codec.seal, 0

    async def seldom(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls % 3 == 0:
            raise SegmentsUnavailable("no space left on device")
        return await seal(*arguments, **named)

    monkeypatch.setattr(frame_codec, "seal", seldom)
    for _ in range(20):
        with suppress(SegmentsUnavailable):
            copy_audit(own)
    found = [one for one in copied(own) if one.get("requestID", "").startswith("r")]
    assert sorted(ids(found), key=int) == [str(number) for number in range(3_000)]


def test_records_of_several_days_in_one_file(own: Harness) -> None:
    """As of calls that began before midnight, or of clocks that were set: each is copied once, found by its time."""
    times = [f"2026-11-{day:02}T{hour:02}:00:00Z" for day in (20, 25, 21, 22) for hour in (0, 23)]

    async def fill() -> None:
        sink = await TrailSink.open(own.config.audit_dir, "cli", None, SinkSettings())
        for number, at in enumerate(times):
            await sink.append(record(number, eventID=f"{number}", eventTime=at))
        await sink.close()

    own.run(fill())
    copy_audit(own)
    for number, at in enumerate(times):
        begin = int(datetime.fromisoformat(at).timestamp() * 1000)
        shown = filtered(own.client("logs"), AUDIT_GROUP, startTime=begin, endTime=begin + 1)
        assert ids([json.loads(text) for text in shown]) == [f"{number}"]
