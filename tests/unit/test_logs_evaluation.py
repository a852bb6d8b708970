"""Slices of queries and searches: one at a time, long ones beside the event loop, at a distance while others wait."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from random import Random

import pytest

from kmsd.cloudwatch_logs import evaluation as log_evaluation
from kmsd.cloudwatch_logs.evaluation import Evaluation, is_long
from kmsd.cloudwatch_logs.filter_pattern.pattern import compile_pattern
from kmsd.event_loop.watchdog import EventLoopWatchdog

TEXT = "".join(Random(1).choices("ab", k=300_000))  # noqa: S311 (the same each time)


@pytest.fixture(name="evaluation")
async def _evaluation() -> AsyncIterator[Evaluation]:
    found = Evaluation()
    yield found
    found.close()


async def test_the_loop_goes_on_beside_a_long_match(evaluation: Evaluation) -> None:
    """A match for which RE2 needs a step for each state and byte; the watch of the loop sees no standstill."""
    pattern = compile_pattern("%[ab]*a[ab]{200}c%")
    assert is_long(len(TEXT), pattern.instructions)
    watch, turns = EventLoopWatchdog(60), 0
    watch.start()
    running = asyncio.ensure_future(evaluation.slice(lambda: pattern(TEXT), in_thread=True))
    while not running.done():
        turns += 1
        await asyncio.sleep(0)
    watch.stop()
    assert await running is False
    assert turns > 10


async def test_slices_come_one_after_the_other(evaluation: Evaluation) -> None:
    """Those of all queries and searches of a process together."""
    under_way, most = 0, 0

    def act() -> None:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        sum(range(20_000))
        under_way -= 1

    await asyncio.gather(*(evaluation.slice(act, in_thread=number % 2 == 0) for number in range(20)))
    assert most == 1


async def test_a_caller_that_is_cancelled_waits_for_the_end(evaluation: Evaluation) -> None:
    """What the slice uses must not be used by two."""
    pattern, ended = compile_pattern("%[ab]*a[ab]{200}c%"), False

    def act() -> None:
        nonlocal ended
        pattern(TEXT)
        ended = True

    running = asyncio.ensure_future(evaluation.slice(act, in_thread=True))
    for _ in range(20):
        await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert ended is True
    assert await evaluation.slice(lambda: 5, in_thread=False) == 5


async def test_an_error_ends_a_slice_and_no_other(evaluation: Evaluation) -> None:
    """On the loop and in the thread."""
    for in_thread in (False, True):
        with pytest.raises(ZeroDivisionError):
            await evaluation.slice(lambda: 1 / 0, in_thread=in_thread)
        assert await evaluation.slice(lambda: 5, in_thread=in_thread) == 5


@pytest.mark.parametrize("busy", [True, False])
async def test_slices_keep_a_distance_while_others_wait(
    evaluation: Evaluation,
    monkeypatch: pytest.MonkeyPatch,
    busy: bool,  # noqa: FBT001 (a parameter)
) -> None:
    """Times their own length; none in a process that has nothing else to do."""
    slept: list[float] = []
    sleep = asyncio.sleep

    async def recorded(seconds: float) -> None:
        slept.append(seconds)
        await sleep(0)

    monkeypatch.setattr(Evaluation, "_is_busy", lambda *_: busy)
    monkeypatch.setattr(log_evaluation.asyncio, "sleep", recorded)
    await evaluation.slice(lambda: sum(range(300_000)), in_thread=False)
    await evaluation.slice(lambda: None, in_thread=False)
    assert (slept[1] > 0) is busy
    assert slept[1] <= log_evaluation.MAX_REST_SECONDS


async def test_its_own_work_makes_a_process_not_busy(evaluation: Evaluation) -> None:
    """Only what others do counts, whatever the machine is doing otherwise."""
    evaluation._is_busy(time.monotonic() + 1)
    for _ in range(5):
        evaluation.counted(lambda: sum(range(1_000_000)))
    others = time.process_time() - evaluation._cpu - evaluation._own
    assert others < evaluation._own / 2
    assert evaluation._is_busy(evaluation._looked_at + 1_000) is False
