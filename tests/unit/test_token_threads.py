"""Threads for calls into the token: as many as are needed, and no result waits for a call that hangs."""

from __future__ import annotations

import asyncio
import os
import random
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from kmsd.adapters.pkcs11.deadline_pool import DeadlineThreadPool
from kmsd.ports import TokenBusy, TokenTimeout
from tests.support.polling import until

NAME = "kmsd-test-threads"


@asynccontextmanager
async def workers(
    threads: int, *, queue_limit: int = 1000, abandoned_limit: int = 8
) -> AsyncIterator[DeadlineThreadPool]:
    """Some, which are gone afterwards."""
    found = DeadlineThreadPool(
        NAME, threads=threads, queue_limit=queue_limit, abandoned_limit=abandoned_limit, low_priority=True
    )
    yield found
    assert await found.close(within=60)
    for thread in threads_of_ours():
        await asyncio.to_thread(thread.join, 60)
    assert running() == 0


def threads_of_ours() -> list[threading.Thread]:
    """Those that are there now."""
    return [thread for thread in threading.enumerate() if thread.name == NAME]


def running() -> int:
    """How many are there."""
    return len(threads_of_ours())


async def test_no_result_waits_for_calls_that_hang() -> None:
    """Also while calls queue up, when results are handed over several at a time."""
    release = threading.Event()
    async with workers(2) as found:
        hanging = [asyncio.ensure_future(found.run(lambda: release.wait(20), deadline=30))]
        queued = [asyncio.ensure_future(found.run(lambda: time.sleep(0.1), deadline=30)) for _ in range(2)]
        await asyncio.wait(queued)
        quick = asyncio.ensure_future(found.run(lambda: "done", deadline=30))
        hanging += [asyncio.ensure_future(found.run(lambda: release.wait(20), deadline=30)) for _ in range(3)]
        assert await asyncio.wait_for(quick, 15) == "done"
        assert not any(task.done() for task in hanging)
        release.set()
        assert await asyncio.gather(*hanging) == [True] * 4


async def test_threads_start_when_they_are_needed() -> None:
    """One after another needs one thread; eight at once need eight; more than there may be wait."""
    async with workers(8) as found:
        assert running() == 0
        for _ in range(20):
            await found.run(lambda: None, deadline=5)
        assert running() == 1
        meet = threading.Barrier(8)
        assert sorted(await asyncio.gather(*(found.run(meet.wait, deadline=5) for _ in range(8)))) == list(range(8))
        assert running() == 8
        await asyncio.gather(*(found.run(lambda: time.sleep(0.001), deadline=5) for _ in range(200)))
        assert running() == 8


async def test_they_give_way_to_the_event_loop() -> None:
    """A thread that wakes from the token does not interrupt who is at work; the loop itself is as it was."""
    async with workers(1) as found:
        assert await found.run(lambda: os.sched_getscheduler(0), deadline=5) == os.SCHED_BATCH
    assert os.sched_getscheduler(0) == os.SCHED_OTHER


async def test_a_result_that_is_there_is_not_late() -> None:
    """At its deadline it may wait for the event loop: it is delivered, and no thread takes the place of its own."""
    async with workers(1) as found:
        asked = asyncio.ensure_future(found.run(lambda: "done", deadline=30))
        await asyncio.sleep(0)
        until(lambda: bool(found._finished))
        (job,) = found._under_way
        found._expire(job)
        assert await asked == "done"


@pytest.mark.parametrize("seed", range(2))
async def test_each_call_is_answered_once(seed: int) -> None:
    """With its own result, its own error, or that it was too late; whatever comes together with whatever."""
    chance, begun = random.Random(seed), []  # noqa: S311 (a test's)

    def job(number: int, seconds: float, *, fails: bool) -> Callable[[], int]:
        def work() -> int:
            begun.append(number)
            time.sleep(seconds)
            if fails:
                raise LookupError(str(number))
            return number

        return work

    async with workers(5, abandoned_limit=400) as found:
        answers: list[int | BaseException] = []
        for group in range(5):
            await asyncio.sleep(chance.choice([0, 0.003, 0.06]))
            calls = [
                found.run(
                    job(number, chance.choice([0, 0.001, 0.004, 0.2]), fails=chance.random() < 0.2),
                    deadline=chance.choice([0.1, 5, 5]),
                )
                for number in range(group * 40, group * 40 + 40)
            ]
            answers += await asyncio.gather(*calls, return_exceptions=True)
        assert found.waiting == 0
    assert sorted(begun) == sorted(set(begun))
    for number, answer in enumerate(answers):
        assert (
            answer == number
            or isinstance(answer, TokenTimeout)
            or (isinstance(answer, TokenBusy) and number not in begun)
            or (isinstance(answer, LookupError) and str(answer) == str(number))
        ), (number, answer)
    assert found.abandoned == 0
