"""The power goes while log segments are written in megabytes: each frame that was acknowledged is there, and whole.

As `test_power`, but for the segments alone, which one process fills as quickly as the disk takes it.
`KMSD_TEST_POWER_LOSSES` says how often; 3 by default.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import random
import shutil
import signal
import time
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path

import pytest

from kmsd.cloudwatch_logs.segments import compaction
from kmsd.cloudwatch_logs.segments.store import FileSegments
from tests.support.file_systems import ext4
from tests.support.log_segments import GROUP, KEY, found, frame
from tests.support.power_loss import LOSSES, OPTIONS, come_back

SIZES = (10, 4_000, 60_000, 110_000, 900_000)
TOGETHER = 12


def content(number: int) -> bytes:
    """What the frame of this number holds: nothing that could be taken for another's."""
    chance = random.Random(number)  # noqa: S311 (the same each time)
    return chance.randbytes(chance.choice(SIZES))


def fill(folder: Path, acknowledged: Synchronized[int]) -> None:
    """Append without end; the frames before `acknowledged` are durable."""

    async def go() -> None:
        segments, number = FileSegments(folder), 0
        while True:
            numbers = range(number, number + TOGETHER)
            await asyncio.gather(*(segments.append(GROUP, frame(one), content(one), KEY) for one in numbers))
            number += TOGETHER
            acknowledged.value = number

    asyncio.run(go())


@pytest.mark.parametrize("loss", range(LOSSES))
def test_power_loss_while_much_is_written(tmp_path: Path, loss: int) -> None:
    """By a reader that finds what a dead process left, before it is finished and afterwards."""
    options, chance = OPTIONS[loss % len(OPTIONS)], random.Random(loss)  # noqa: S311 (when the power goes)
    with ext4(tmp_path, 512, *options) as (image, disk):
        spawn = multiprocessing.get_context("spawn")
        acknowledged = spawn.Value("q", 0)
        writer = spawn.Process(target=fill, args=(disk / "logs", acknowledged), daemon=True)
        writer.start()
        deadline = time.monotonic() + 30
        while acknowledged.value < TOGETHER and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(chance.uniform(0, 0.6))
        assert writer.pid is not None
        os.kill(writer.pid, signal.SIGSTOP)
        expected = acknowledged.value
        shutil.copyfile(image, tmp_path / "copy.img")
        writer.kill()
        writer.join()
        come_back(image, tmp_path / "copy.img", disk, *options)
        assert expected >= TOGETHER
        asyncio.run(read_all(disk / "logs", expected))


async def read_all(folder: Path, expected: int) -> None:
    """Raises AssertionError."""
    for _ in range(2):
        segments = FileSegments(folder)
        stored = await found(segments)
        assert {one.frame.first_at for one in stored} >= set(range(expected))
        for one, sealed in zip(stored, await segments.read(GROUP, stored), strict=True):
            assert sealed == content(one.frame.first_at), one.frame.first_at
        await segments.close()
        compaction.finish_leftovers(folder)
