"""The audit sink's promises, with an audit key in a real token."""

from __future__ import annotations

import asyncio
import base64
import json
import threading
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import uvloop
from msgspec.structs import replace

from kmsd.adapters.audit_trail import checkpointer, group_commit
from kmsd.adapters.audit_trail.checkpointer import Interval, Signer
from kmsd.adapters.audit_trail.format import COPIES
from kmsd.adapters.audit_trail.sink import SinkSettings, TrailSink
from kmsd.adapters.audit_trail.verify import verify
from kmsd.adapters.sqlite import connection
from kmsd.adapters.sqlite.store import SqliteStore
from kmsd.domain.trusted_time import Uptime, confirmed
from kmsd.ports import AuditUnavailable, TokenTimeout, TokenUnavailable
from tests.support.audit_trail import make_signer, own_lines, record, trail_lines, trail_records
from tests.support.polling import until_async
from tests.support.tokens import softhsm

OFTEN = SinkSettings(interval=Interval(lines=10, seconds=600))
SELDOM = SinkSettings(interval=Interval(lines=10_000, seconds=600))


@pytest.fixture(name="signer")
async def _signer(tmp_path: Path) -> AsyncIterator[Signer]:
    with softhsm(tmp_path / "token") as place:
        async with place.open() as token:
            yield await make_signer(token)


@pytest.fixture(name="folder")
def _folder(tmp_path: Path) -> Path:
    folder = tmp_path / "audit"
    folder.mkdir()
    return folder


@pytest.fixture(name="schedule", params=["kernel", "thread"])
def _schedule(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways in which a batch reaches the disk."""
    if request.param == "thread":
        monkeypatch.setattr(group_commit, "kernel_sync", lambda: None)
    return str(request.param)


def assert_sound(folder: Path, signer: Signer) -> None:
    """`kmsd audit verify` has nothing to say."""
    report = verify(folder, [signer.public_key])
    assert [str(finding) for finding in report.findings] == []


async def test_who_is_cancelled_while_the_record_is_written_goes_on_to_the_commit(
    folder: Path, signer: Signer, tmp_path: Path, schedule: str
) -> None:
    """The record is durable, so the change must be, too; the cancellation holds from the commit on."""
    database = tmp_path / "kmsd.sqlite"
    connection.create(database)
    store, sink = SqliteStore(database), await TrailSink.open(folder, "worker-0", signer, SELDOM)
    released, at_record = threading.Event(), asyncio.Event()
    reached: list[str] = []

    async def call() -> None:
        async with store.write() as transaction:
            await transaction.put_clock_reading(confirmed(datetime(2026, 1, 1, tzinfo=UTC), Uptime("boot", 1.0)))
            at_record.set()
            await sink.append(record(1))
            reached.append("commit")
        reached.append("answer")

    holding = asyncio.create_task(sink._commit.run(released.wait))
    task = asyncio.create_task(call())
    await at_record.wait()
    task.cancel()
    await asyncio.sleep(0)
    assert not task.done()
    released.set()
    await asyncio.wait([task, holding])
    assert task.cancelled()
    assert reached == ["commit"]
    assert await (await store.read()).clock_reading() is not None
    assert [found["requestID"] for found in trail_records(folder)] == ["r1"]
    await sink.close()
    await store.close()


def copies_in(folder: Path) -> list[str]:
    """The lines of the copies beside the trail."""
    return (folder / COPIES).read_text().splitlines()


def files_in(folder: Path) -> list[Path]:
    """The trail's files, the oldest first."""
    return sorted(folder.glob("*.trail"))


async def test_a_record_is_in_the_file_when_append_returns(folder: Path, signer: Signer, schedule: str) -> None:
    """Durable on return, in the order of the calls, once."""
    sink = await TrailSink.open(folder, "worker-0", signer, SELDOM)
    for number in range(20):
        await sink.append(record(number))
        assert trail_records(folder)[-1]["requestID"] == f"r{number}"
    await sink.close()
    assert [found["requestID"] for found in trail_records(folder)] == [f"r{number}" for number in range(20)]
    assert_sound(folder, signer)


async def test_many_waiting_records_share_a_sync(
    folder: Path, signer: Signer, schedule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sixty-four that arrive together cost a handful of syncs, not sixty-four."""
    sink = await TrailSink.open(folder, "worker-0", signer, SELDOM)
    await sink.append(record(0))
    await until_async((folder / COPIES).exists)
    batches: list[int] = []
    way = "begin_write" if schedule == "kernel" else "append"
    write = getattr(sink._writer, way)

    def counted(records: list[bytes]) -> Any:
        batches.append(len(records))
        return write(records)

    monkeypatch.setattr(sink._writer, way, counted)
    await asyncio.gather(*(sink.append(record(number)) for number in range(1, 65)))
    assert sum(batches) == 64
    assert len(batches) <= 3
    monkeypatch.undo()
    await sink.close()
    assert [found["requestID"] for found in trail_records(folder)] == [f"r{number}" for number in range(65)]


async def test_a_checkpoint_after_so_many_lines(folder: Path, signer: Signer) -> None:
    """Signed in the background, written as a line of its own, copied beside the trail."""
    sink = await TrailSink.open(folder, "worker-0", signer, OFTEN)
    for number in range(35):
        await sink.append(record(number))
        await asyncio.sleep(0.002)
    await until_async(lambda: len(own_lines(folder, "checkpoint")) >= 3)
    await sink.close()
    found = own_lines(folder, "checkpoint")
    copies = [json.loads(line) for line in copies_in(folder)]
    assert copies == found
    assert found[-1]["sequence"] == len(trail_lines(folder)) - 1  # all but itself
    assert_sound(folder, signer)


async def test_a_checkpoint_after_so_much_time(folder: Path, signer: Signer) -> None:
    """A few records do not stay unsigned for long; and where nothing is written, nothing is signed."""
    sink = await TrailSink.open(folder, "worker-0", signer, SinkSettings(interval=Interval(lines=1000, seconds=0.05)))
    await sink.record_takeover()
    await until_async(lambda: len(own_lines(folder, "checkpoint")) == 1)
    await sink.append(record(1))
    await until_async(lambda: len(own_lines(folder, "checkpoint")) == 2)
    await asyncio.sleep(0.2)
    assert len(own_lines(folder, "checkpoint")) == 2
    await sink.close()
    assert_sound(folder, signer)


async def test_a_checkpoint_at_rotation_and_at_the_end(folder: Path, signer: Signer) -> None:
    """The end of a file is covered by one of the first lines of the next; the end of the trail by its last."""
    clock = {"now": datetime(2026, 11, 22, 23, 59, tzinfo=UTC)}
    sink = await TrailSink.open(folder, "worker-0", signer, replace(SELDOM, now=lambda: clock["now"]))
    await sink.append(record(1))
    await until_async(lambda: len(own_lines(folder, "checkpoint")) == 1)
    clock["now"] += timedelta(hours=1)
    await sink.append(record(2))
    await until_async(lambda: len(own_lines(folder, "checkpoint")) == 2)
    await sink.append(record(3))
    await sink.close()
    first, second = files_in(folder)
    assert (first.name[18:26], second.name[18:26]) == ("20261122", "20261123")
    assert b'"kmsd":"checkpoint"' in second.read_bytes().splitlines()[2]
    lines = trail_lines(folder)
    assert b'"kmsd":"checkpoint"' in lines[-1]
    assert b'"kmsd":"stop"' in lines[-2]
    assert_sound(folder, signer)


async def test_signing_keeps_nobody_waiting(folder: Path, signer: Signer) -> None:
    """Records are acknowledged while the token takes its time."""
    release = asyncio.Event()

    async def slow(digest: bytes) -> bytes:
        await release.wait()
        return await signer.sign(digest)

    sink = await TrailSink.open(folder, "worker-0", replace(signer, sign=slow), OFTEN)
    async with asyncio.timeout(5):
        for number in range(50):
            await sink.append(record(number))
    assert own_lines(folder, "checkpoint") == []
    release.set()
    await until_async(lambda: own_lines(folder, "checkpoint") != [])
    await sink.close()
    assert_sound(folder, signer)


async def test_the_trail_survives_the_token(folder: Path, signer: Signer, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the token is away records go on, the trail says once that they are unsigned, and later they are signed."""
    monkeypatch.setattr(checkpointer, "RETRY_SECONDS", 0.02)
    away = {"token": True}

    async def sign(digest: bytes) -> bytes:
        if away["token"]:
            raise TokenUnavailable("gone")
        return await signer.sign(digest)

    sink = await TrailSink.open(folder, "worker-0", replace(signer, sign=sign), OFTEN)
    for number in range(40):
        await sink.append(record(number))
    await until_async(lambda: own_lines(folder, "unsigned") != [])
    assert own_lines(folder, "checkpoint") == []
    (told,) = own_lines(folder, "unsigned")
    assert told["reason"] == "TokenUnavailable"
    report = verify(folder, [signer.public_key])
    assert "nothing in this chain is signed" in str(report.findings[0])
    away["token"] = False
    await until_async(lambda: own_lines(folder, "checkpoint") != [])
    await sink.append(record(41))
    await sink.close()
    assert len(own_lines(folder, "unsigned")) == 1
    assert_sound(folder, signer)


async def test_a_token_that_is_away_at_the_end(folder: Path, signer: Signer) -> None:
    """The trail closes without a last checkpoint; the next start covers it."""

    async def sign(_: bytes) -> bytes:
        raise TokenTimeout("gone")

    sink = await TrailSink.open(folder, "worker-0", replace(signer, sign=sign), SELDOM)
    await sink.append(record(1))
    await sink.close()
    assert own_lines(folder, "checkpoint") == []
    sink = await TrailSink.open(folder, "worker-0", signer, SELDOM)
    await sink.record_takeover()
    await until_async(lambda: own_lines(folder, "checkpoint") != [])
    await sink.close()
    assert_sound(folder, signer)


async def test_commands_write_at_the_same_time(folder: Path, signer: Signer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has a chain of its own; a name that is free again is taken again."""
    first = await TrailSink.open(folder, "cli", signer, SELDOM, shared_writer_name=True)
    second = await TrailSink.open(folder, "cli", signer, SELDOM, shared_writer_name=True)
    assert (first.writer, second.writer) == ("cli", "cli-2")
    monkeypatch.setattr("kmsd.adapters.audit_trail.sink.PATIENCE_SECONDS", 0.1)
    with pytest.raises(AuditUnavailable, match="another process"):
        await TrailSink.open(folder, "cli", signer, SELDOM)
    await first.append(record(1))
    await second.append(record(2))
    await first.close()
    third = await TrailSink.open(folder, "cli", signer, SELDOM, shared_writer_name=True)
    assert third.writer == "cli"
    await third.append(record(3))
    await third.close()
    await second.close()
    assert len(trail_records(folder)) == 3
    assert_sound(folder, signer)


async def test_a_key_made_later_signs_what_was_before(folder: Path, signer: Signer) -> None:
    """`kmsd init`: the first lines are older than the audit key, and are covered by it all the same."""
    sink = await TrailSink.open(folder, "cli", None, SELDOM)
    await sink.append(record(1))
    await sink.start_signing(signer)
    await sink.append(record(2))
    await sink.close()
    first, second = own_lines(folder, "open")
    assert first["publicKey"] is None
    assert base64.b64decode(second["publicKey"]) == signer.public_key
    assert_sound(folder, signer)


@pytest.mark.parametrize("bad", [b'{"kmsd":"checkpoint"}', b'{"a":1}\n{"b":2}'])
async def test_what_is_no_record_is_refused(folder: Path, signer: Signer, bad: bytes) -> None:
    """Nothing that could pass for a line of the trail's own, or for two lines."""
    sink = await TrailSink.open(folder, "worker-0", signer, SELDOM)
    with pytest.raises(AuditUnavailable):
        await sink.append(bad)
    await sink.close()
    assert trail_lines(folder) == []


async def test_a_caller_who_goes_away_leaves_his_record(folder: Path, signer: Signer, schedule: str) -> None:
    """A cancelled request was begun: its record stays, and nobody else's is lost."""
    sink = await TrailSink.open(folder, "worker-0", signer, SELDOM)
    tasks = [asyncio.create_task(sink.append(record(number))) for number in range(6)]
    await asyncio.sleep(0)
    for task in tasks[::2]:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await sink.append(record(6))
    await sink.close()
    assert [found["requestID"] for found in trail_records(folder)] == [f"r{number}" for number in range(7)]


def test_it_runs_on_uvloop_too(tmp_path: Path) -> None:
    """The daemon's loop."""

    async def act() -> None:
        with softhsm(tmp_path / "token") as place:
            async with place.open() as token:
                signer = await make_signer(token)
                sink = await TrailSink.open(tmp_path, "worker-0", signer, OFTEN)
                await asyncio.gather(*(sink.append(record(number)) for number in range(100)))
                await sink.check()
                await sink.close()
                assert_sound(tmp_path, signer)

    uvloop.run(act())
    assert len(trail_records(tmp_path)) == 100
